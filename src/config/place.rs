//! Where the ledger is: a file of SQLite's, or a database of PostgreSQL's.
//!
//! A password is never a part of it; where one is kept can be.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;

/// Where the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    Database(Database),
}

/// A database of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// A name, an address, or the directory of a socket; several, with commas between them, are tried in turn until one
    /// takes writes.
    pub host: String,
    pub port: u16,
    pub role: String,
    pub name: String,
    /// Whether the connection is encrypted, and the server's certificate verified.
    pub tls: bool,
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
}

/// In the words of libpq, so that what an administrator knows of those is true here.
const PARAMETERS: [&str; 4] = ["host", "user", "sslmode", "sslrootcert"];
const DEFAULT_PORT: u16 = 5432;

impl Place {
    /// The value of the key `ledger`.
    pub fn parse(text: &str) -> Result<Place, String> {
        Place::parse_for(text, None)
    }

    /// The same; of a database that is named without a role, this one is.
    pub fn parse_for(text: &str, role: Option<&str>) -> Result<Place, String> {
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme {
                "postgresql" | "postgres" => Database::parse(text, role).map(Place::Database),
                _ => Err(format!(
                    "`{scheme}:` is no kind of ledger: it is a path, or postgresql://ROLE@HOST/DATABASE"
                )),
            };
        }
        match Path::new(text) {
            path if path.is_absolute() || text.starts_with("./") => Ok(Place::File(path.to_owned())),
            _ => Err(format!("`{text}` must be an absolute path, or postgresql://ROLE@HOST/DATABASE")),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Place::File(path) => Some(path),
            Place::Database(_) => None,
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Place {
        Place::File(path.to_owned())
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Place {
        Place::File(path.clone())
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Place {
        place.clone()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(f),
            Place::Database(database) => database.fmt(f),
        }
    }
}

impl Database {
    /// No message repeats the text: somebody may have written a password into it.
    fn parse(text: &str, usual_role: Option<&str>) -> Result<Database, String> {
        let form = "must be postgresql://ROLE@HOST/DATABASE, or postgresql:///DATABASE?host=/run/postgresql&user=ROLE";
        let url = Url::parse(text).map_err(|error| format!("{form} ({error})"))?;
        let given =
            |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if url.password().is_some() || given("password").is_some() {
            return Err(
                "a password must not stand in this file: use `ledger_password_file`, a systemd credential \
                        named `ledger-password`, or a PGPASSFILE"
                    .to_owned(),
            );
        }
        if let Some((unknown, _)) = url.query_pairs().find(|(key, _)| !PARAMETERS.contains(&key.as_ref())) {
            return Err(format!("`{unknown}` is no parameter of it; known: {}", PARAMETERS.join(", ")));
        }
        let decoded = |text: &str| percent_decoded(text).ok_or_else(|| form.to_owned());
        let host = match url.host_str().filter(|host| !host.is_empty()) {
            Some(host) => decoded(host.trim_matches(['[', ']']))?,
            None => given("host").ok_or(form)?,
        };
        let role = match url.username() {
            "" => given("user")
                .or_else(|| usual_role.map(str::to_owned))
                .ok_or("must name the role: postgresql://ROLE@HOST/DATABASE")?,
            role => decoded(role)?,
        };
        let name = decoded(url.path().trim_start_matches('/'))?;
        if name.is_empty() || name.contains('/') {
            return Err("must name the database: postgresql://ROLE@HOST/DATABASE".to_owned());
        }
        let tls = match given("sslmode").as_deref() {
            None => !is_near(&host),
            Some("verify-full") => true,
            Some("disable") => false,
            Some(_) => {
                return Err("`sslmode` must be verify-full (the default) or disable: what does not verify the server \
                            keeps nobody out"
                    .to_owned());
            }
        };
        let ca_file = given("sslrootcert").map(PathBuf::from);
        let port = url.port().unwrap_or(DEFAULT_PORT);
        Ok(Database { host, port, role, name, tls, ca_file, password_file: None })
    }

    /// Whether the host is the directory of a socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Database { host, port, role, name, .. } = self;
        match (self.is_socket(), host.contains(':')) {
            (true, _) => write!(f, "postgresql:///{name}?host={host}&user={role}")?,
            (_, true) => write!(f, "postgresql://{role}@[{host}]")?,
            _ => write!(f, "postgresql://{role}@{host}")?,
        }
        match (self.is_socket(), *port) {
            (true, _) => Ok(()),
            (false, DEFAULT_PORT) => write!(f, "/{name}"),
            (false, port) => write!(f, ":{port}/{name}"),
        }
    }
}

/// Whether nothing that is said to these hosts leaves the machine.
fn is_near(hosts: &str) -> bool {
    hosts.split(',').all(|host| {
        host.starts_with('/')
            || host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(text: &str) -> Database {
        match Place::parse(text).unwrap() {
            Place::Database(database) => database,
            Place::File(path) => panic!("{} is a file", path.display()),
        }
    }

    #[test]
    fn a_database_is_named_as_libpq_names_it() {
        let far = database("postgresql://usage@db.example.com/bill");
        let shown = (far.host.as_str(), far.port, far.role.as_str(), far.name.as_str(), far.tls);
        assert_eq!(shown, ("db.example.com", 5432, "usage", "bill", true));
        assert_eq!(far.to_string(), "postgresql://usage@db.example.com/bill");
        let socket = database("postgresql:///bill?host=/run/postgresql&user=usage");
        assert_eq!((socket.host.as_str(), socket.is_socket(), socket.tls), ("/run/postgresql", true, false));
        assert_eq!(socket, database("postgres://usage@%2Frun%2Fpostgresql/bill"));
        assert_eq!(database("postgresql://u@[::1]:6432/b").to_string(), "postgresql://u@[::1]:6432/b");
    }

    #[test]
    fn a_connection_is_plain_only_where_it_stays_on_the_machine_or_where_that_is_said() {
        for (text, tls) in [
            ("postgresql://u@127.0.0.1/b", false),
            ("postgresql://u@localhost/b", false),
            ("postgresql://u@localhost/b?sslmode=verify-full", true),
            ("postgresql://u@10.0.0.1/b", true),
            ("postgresql://u@localhost,10.0.0.1/b", true),
            ("postgresql://u@10.0.0.1/b?sslmode=disable", false),
        ] {
            assert_eq!(database(text).tls, tls, "{text}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in ["postgresql://u:hunter2@h/b", "postgresql://u@h/b?password=hunter2"] {
            let problem = Place::parse(text).unwrap_err();
            assert!(problem.contains("ledger_password_file") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn what_can_not_be_a_ledger_is_told_with_what_can() {
        for (text, said) in [
            ("ledger.db", "must be an absolute path, or postgresql://ROLE@HOST/DATABASE"),
            ("mysql://u@h/b", "`mysql:` is no kind of ledger"),
            ("postgresql://u@h/", "must name the database"),
            ("postgresql://h/b", "must name the role"),
            ("postgresql://u@h/b?sslmode=require", "must be verify-full"),
            ("postgresql://u@h/b?pool=1", "`pool` is no parameter"),
        ] {
            let problem = Place::parse(text).unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }
}
