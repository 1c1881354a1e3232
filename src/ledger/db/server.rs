//! A ledger in a database of a PostgreSQL server: how it is reached, and how its tables are made.
//!
//! A password is read anew for each connection, from where it is kept, and shown to nobody but the server. What the server
//! is asked is the same that SQLite is asked (`sql`).

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postgres::config::{SslMode, TargetSessionAttrs};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::schema;
use super::sql::{self, Connection, Error};
use crate::config::place::Database;
use crate::wire::secret::{Place as Kept, Secret, Sort};

/// For everything that a connection waits for before it is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A host that has gone is noticed in so long, and its transaction undone by the server in as long, so that another can
/// take over. Nothing that is asked at once takes as long as the largest of these.
const SESSION: &str = "
SET statement_timeout = '300s';
SET lock_timeout = '60s';
SET idle_in_transaction_session_timeout = '8s';
SET tcp_user_timeout = '8s';
SET tcp_keepalives_idle = 3;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 2;
SET synchronous_commit = on;
SET client_min_messages = warning;
";

/// The database's clock, in microseconds.
pub(super) const NOW: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";

/// Whether the ledger is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Write,
    Read,
}

/// Connects to the database.
pub(super) fn connect(database: &Database, to: Use) -> sql::Result<Connection> {
    let database = database.clone();
    Connection::to_server(Arc::new(move || client(&database, to)))
}

/// Whether what looks like a connection is another one with each transaction: a pooler is between that lends them out. Two
/// sessions of a server's never have one process, and each has one as long as it lasts.
pub(super) fn lends_connections(database: &Database) -> sql::Result<bool> {
    let database = database.clone();
    // Its client waits for the network in a way that must not be done everywhere.
    let asked = std::thread::spawn(move || {
        let (mut one, mut other) = (client(&database, Use::Read)?, client(&database, Use::Read)?);
        for _ in 0..TRIES {
            let own = process_of(&mut one)?;
            if process_of(&mut other)? == own {
                return Ok(true);
            }
            // Where they are lent in turns, one that is kept shows it.
            other.batch_execute("BEGIN")?;
            if process_of(&mut one)? != own {
                return Ok(true);
            }
            other.batch_execute("ROLLBACK")?;
        }
        Ok(false)
    });
    asked.join().unwrap_or_else(|_| Err(Error::NoWay("asking the server ended early".to_owned())))
}

/// A pooler may have several connections at hand, and lend out the same one by chance.
const TRIES: u32 = 5;

/// The server's process that answers.
fn process_of(client: &mut Client) -> sql::Result<Option<String>> {
    // Nothing is prepared for it: that would fail in its own way there.
    let answer = client.simple_query("SELECT pg_backend_pid()")?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// The version of the tables that are there; `None` if there are none.
pub(super) fn version(connection: &Connection) -> sql::Result<Option<i64>> {
    let made =
        connection.query_row("SELECT to_regclass('ledger_version') IS NOT NULL", [], |row| row.get(0))?;
    if made {
        connection.query_row("SELECT version FROM ledger_version", [], |row| row.get(0)).map(Some)
    } else {
        Ok(None)
    }
}

/// The schema that the tables are in.
pub(super) fn schema(connection: &Connection) -> sql::Result<String> {
    connection.query_row("SELECT quote_ident(current_schema())", [], |row| row.get(0))
}

/// Whether others are at work that may take the turn, of whatever role: those of hosts only append. A connection that was
/// closed is there for a moment more, also one of this very command.
#[expect(
    clippy::disallowed_methods,
    reason = "on the ledger's own thread, or of a command that does nothing else"
)]
pub(super) fn are_others_at_work(connection: &Connection) -> sql::Result<bool> {
    for _ in 0..LOOKS_FOR_OTHERS {
        if others(connection)? == 0 {
            return Ok(false);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(true)
}

/// Five seconds in all.
const LOOKS_FOR_OTHERS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How many connections of such agents there are beside this one.
fn others(connection: &Connection) -> sql::Result<i64> {
    connection.query_row(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
         AND application_name = 'waldur-usage-agent' AND has_table_privilege(usesysid, 'lease', 'UPDATE')",
        [],
        |row| row.get(0),
    )
}

/// How many runs of hosts wait to be taken.
pub(super) fn arrived(connection: &Connection) -> sql::Result<i64> {
    connection.query_row("SELECT count(*) FROM inbox WHERE part = 0", [], |row| row.get(0))
}

/// The tables that this role may not write. Where rows are told apart by whose they are, it has to see all.
pub(super) fn may_not_write(connection: &Connection) -> sql::Result<Vec<String>> {
    const ALL: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let all = ALL.map(|right| format!("has_table_privilege(oid, '{right}')")).join(" AND ");
    let may = format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
           AND {all}
           AND (NOT row_security_active(oid) OR EXISTS (SELECT 1 FROM pg_policy
                WHERE polrelid = pg_class.oid AND polcmd = '*' AND polname <> 'own'
                  AND (SELECT bool_or(one = 0 OR pg_has_role(one, 'USAGE')) FROM unnest(polroles) one)))"
    );
    let may: std::collections::BTreeSet<String> =
        connection.prepare(&may)?.query_map([], |row| row.get(0))?.collect::<sql::Result<_>>()?;
    let wanted = schema::tables().chain(["lease", "writer"]);
    Ok(wanted.filter(|table| !may.contains(*table)).map(str::to_owned).collect())
}

/// Makes the tables that are not there, in one transaction; of two who try at once one waits.
pub(super) fn make(connection: &Connection) -> sql::Result<()> {
    // 0x57554147: the mark that a file has, too.
    connection.begin_with("SELECT pg_advisory_xact_lock(1465205063)")?;
    let made = || {
        let encoding: String = connection.query_row("SHOW server_encoding", [], |row| row.get(0))?;
        if encoding != "UTF8" {
            return Err(Error::NoWay(format!(
                "its database keeps text as {encoding}: make another one, `createdb --encoding=UTF8 --template=template0`"
            )));
        }
        let there = version(connection)?;
        for step in schema::steps_from(there.unwrap_or(0)) {
            connection.execute_batch(&schema::for_postgres(step))?;
        }
        if there.is_none() {
            connection.execute_batch(schema::SERVER_ONLY)?;
        }
        connection.execute("UPDATE ledger_version SET version = ?", [schema::VERSION]).map(drop)
    };
    match made() {
        Ok(()) => connection.commit(),
        Err(error) => {
            drop(connection.roll_back());
            Err(error)
        }
    }
}

fn client(database: &Database, to: Use) -> sql::Result<Client> {
    let mut config = Config::new();
    config
        .user(&database.role)
        .dbname(&database.name)
        .port(database.port)
        .application_name("waldur-usage-agent")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(Duration::from_secs(30))
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(2);
    for host in database.host.split(',') {
        config.host(host);
    }
    if database.host.contains(',') && to == Use::Write {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if let Some(password) = password(database, |name| std::env::var_os(name))? {
        config.password(password);
    }
    let mut client = if database.tls {
        config.ssl_mode(SslMode::Require);
        config.connect(MakeRustlsConnect::new(tls(database.ca_file.as_deref())?))?
    } else {
        config.ssl_mode(SslMode::Disable);
        config.connect(NoTls)?
    };
    client.batch_execute(SESSION)?;
    if to == Use::Read {
        client.batch_execute("SET default_transaction_read_only = on")?;
    }
    Ok(client)
}

/// Whom to trust: the system's authorities, or those of the file.
fn tls(ca_file: Option<&Path>) -> sql::Result<rustls::ClientConfig> {
    let no_way = |why: String| Error::NoWay(why);
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| no_way(error.to_string()))?;
    let Some(path) = ca_file else {
        let builder = builder.with_platform_verifier();
        return Ok(builder.map_err(|error| no_way(error.to_string()))?.with_no_client_auth());
    };
    let bad = |why: &dyn std::fmt::Display| no_way(format!("the authorities in {}: {why}", path.display()));
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
        let certificate = certificate.map_err(|error| bad(&error))?;
        trusted.add(certificate).map_err(|error| bad(&error))?;
    }
    if trusted.is_empty() {
        return Err(bad(&"no certificate in it"));
    }
    Ok(builder.with_root_certificates(trusted).with_no_client_auth())
}

/// The role's password, where one is kept: the file of the configuration, a systemd credential, or libpq's file.
fn password(database: &Database, env: impl Fn(&str) -> Option<OsString>) -> sql::Result<Option<String>> {
    let credential = env("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join("ledger-password"));
    let kept = database.password_file.clone().or(credential.filter(|path| path.exists()));
    if let Some(path) = kept {
        let secret =
            Secret::open(Kept::File(path), Sort::Password).map_err(|why| Error::NoWay(why.to_string()))?;
        return Ok(Some(secret.current().expose_secret().to_owned()));
    }
    let (path, asked) = match env("PGPASSFILE") {
        Some(path) => (PathBuf::from(path), true),
        None => match env("HOME") {
            Some(home) => (PathBuf::from(home).join(".pgpass"), false),
            None => return Ok(None),
        },
    };
    let no_way = |why: String| Error::NoWay(format!("the password file {}: {why}", path.display()));
    let about = match path.metadata() {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => return Ok(None),
        Err(error) => return Err(no_way(error.to_string())),
    };
    if about.permissions().mode() & 0o077 != 0 {
        return Err(no_way("others may read it; `chmod 600` it".to_owned()));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| no_way(error.to_string()))?;
    Ok(passfile_entry(&text, database))
}

/// The password of the first line `host:port:database:role:password` that is of this database. `*` is any, and a
/// backslash stands before a colon or backslash that is a part of a field.
fn passfile_entry(text: &str, database: &Database) -> Option<String> {
    let host = if database.is_socket() { "localhost" } else { &database.host };
    let port = database.port.to_string();
    let wanted = [host, &port, &database.name, &database.role];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line).into_iter();
        let is_of =
            wanted.iter().all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        fields.next().filter(|_| is_of)
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let taken = match character {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next(),
            other => Some(other),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(taken);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            host: "db.example.com".to_owned(),
            port: 5432,
            role: "usage".to_owned(),
            name: "bill".to_owned(),
            tls: true,
            ca_file: None,
            password_file: None,
        }
    }

    #[test]
    fn a_password_file_is_read_as_libpq_reads_it() {
        for (text, password) in [
            ("db.example.com:5432:bill:usage:secret", Some("secret")),
            ("#*:*:*:*:no\nother:*:*:*:no\n*:*:*:usage:a:b\\\\c\\:d\n*:*:*:*:later", Some("a:b\\c:d")),
            ("*:5433:*:*:no", None),
            ("db.example.com:5432:bill", None),
            ("", None),
        ] {
            assert_eq!(passfile_entry(text, &database()).as_deref(), password, "{text}");
        }
    }

    #[test]
    fn the_configured_file_goes_before_the_credential_and_that_before_libpqs() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" | "HOME" => Some(folder.path().as_os_str().to_owned()),
            _ => None,
        };
        assert_eq!(password(&database(), env).unwrap(), None);
        write(".pgpass", "*:*:*:*:third\n");
        assert_eq!(password(&database(), env).unwrap().as_deref(), Some("third"));
        write("ledger-password", "second\n");
        assert_eq!(password(&database(), env).unwrap().as_deref(), Some("second"));
        write("first", "first\n");
        let named = Database { password_file: Some(path("first")), ..database() };
        assert_eq!(password(&named, env).unwrap().as_deref(), Some("first"));
        std::fs::remove_file(path("ledger-password")).unwrap();
        std::fs::set_permissions(path(".pgpass"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let problem = password(&database(), env).unwrap_err().to_string();
        assert!(problem.contains("chmod 600") && !problem.contains("third"), "{problem}");
    }
}
