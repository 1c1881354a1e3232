//! A PostgreSQL server for one test, on a socket of its own: database `bill`, which the role `usage` owns.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::{Client, NoTls};

use super::agent::skip;

pub(crate) struct Server {
    bin: PathBuf,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control(&["-m", "immediate", "stop"]);
    }
}

impl Server {
    /// `None` where PostgreSQL is not installed: `test` is left out.
    pub(crate) fn start(test: &str, options: &[&str]) -> Option<Server> {
        let mut found: Vec<PathBuf> = glob::glob("/usr/lib/postgresql/*/bin").unwrap().flatten().collect();
        found.sort();
        let Some(bin) = found.pop() else {
            skip(test, "PostgreSQL is not installed");
            return None;
        };
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let server = Server { bin, folder: folder(), options };
        let data = server.data();
        let made = server.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        );
        assert!(made, "initdb");
        server.restart();
        server.sql("postgres", "CREATE ROLE usage LOGIN");
        server.sql("postgres", "CREATE DATABASE bill OWNER usage");
        Some(server)
    }

    /// Another server, to which all that is committed here is copied until it is stopped.
    pub(crate) fn standby(&self) -> Server {
        let (bin, options) = (self.bin.clone(), self.options.clone());
        let standby = Server { bin, folder: folder(), options };
        let (from, to) = (self.folder.path().display().to_string(), standby.data());
        assert!(self.run(
            "pg_basebackup",
            &["-h", &from, "-U", "postgres", "-D", &to, "-R", "-X", "stream", "-c", "fast"]
        ));
        standby.restart();
        standby
    }

    pub(crate) fn stop(&self) {
        assert!(self.control(&["-m", "fast", "stop"]));
    }

    /// It takes writes from now on.
    pub(crate) fn promote(&self) {
        assert!(self.control(&["-w", "promote"]));
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }

    /// Waits until somebody waits there for a lock, and returns whose backend that is.
    pub(crate) fn waits_for_a_lock(&self) -> i32 {
        let mut admin = self.connect("bill");
        let mut found = None;
        super::agent::until("somebody waits for a lock", || {
            let waiting =
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'bill'";
            found = admin.query_opt(&format!("{waiting} LIMIT 1"), &[]).unwrap().map(|row| row.get(0));
            found.is_some()
        });
        found.unwrap()
    }

    /// From now on it listens on this machine's address, too, with these certificates: on the port that is returned.
    pub(crate) fn serve_tls(&mut self, certificate: &Path, key: &Path) -> u16 {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = Path::new(&self.data()).join(name);
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let folder = std::fs::metadata(self.folder.path()).unwrap();
            std::os::unix::fs::chown(&to, Some(folder.uid()), Some(folder.gid())).unwrap();
        }
        assert!(self.control(&["-m", "fast", "stop"]));
        self.options.push(format!("-c ssl=on -c listen_addresses=127.0.0.1 -c port={port}"));
        self.restart();
        port
    }

    pub(crate) fn url(&self, database: &str, role: &str) -> String {
        format!("postgresql:///{database}?host={}&user={role}", self.folder.path().display())
    }

    /// A connection of an administrator's.
    pub(crate) fn connect(&self, database: &str) -> Client {
        let config = format!("host={} user=postgres dbname={database}", self.folder.path().display());
        Client::connect(&config, NoTls).unwrap()
    }

    /// A connection of a role's own.
    pub(crate) fn connect_as(&self, database: &str, role: &str) -> Client {
        let config = format!("host={} user={role} dbname={database}", self.folder.path().display());
        Client::connect(&config, NoTls).unwrap()
    }

    pub(crate) fn sql(&self, database: &str, sql: &str) {
        self.connect(database).batch_execute(sql).unwrap();
    }

    pub(crate) fn number(&self, database: &str, sql: &str) -> i64 {
        self.connect(database).query_one(sql, &[]).unwrap().get(0)
    }

    /// From now on it listens there in the open.
    pub(crate) fn serve_no_tls(&mut self) {
        assert!(self.control(&["-m", "fast", "stop"]));
        for option in &mut self.options {
            *option = option.replace("ssl=on", "ssl=off");
        }
        self.restart();
    }

    /// From now on this role has to show its password.
    pub(crate) fn demand_passwords_of(&self, role: &str) {
        let file = Path::new(&self.data()).join("pg_hba.conf");
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, format!("local all {role} scram-sha-256\n{rules}")).unwrap();
        assert!(self.control(&["reload"]));
    }

    /// All of its processes at once.
    pub(crate) fn kill(&mut self) {
        let pid = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.lines().next().unwrap().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        // Its children see that it is gone, and follow.
        super::agent::until("the server is gone", || !self.socket().exists() || self.refuses());
    }

    fn refuses(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket()).is_err()
    }

    pub(crate) fn restart(&self) {
        let mut options = format!(
            "-k '{}' -c listen_addresses='' -c fsync=off -c full_page_writes=off",
            self.folder.path().display()
        );
        for option in &self.options {
            options += " ";
            options += option;
        }
        let log = self.folder.path().join("log").display().to_string();
        super::agent::until("the server starts", || {
            self.control(&["-l", &log, "-w", "-o", &options, "start"])
        });
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn control(&self, arguments: &[&str]) -> bool {
        let data = self.data();
        self.run("pg_ctl", &[&["-D", data.as_str()], arguments].concat())
    }

    /// The server refuses to be root's.
    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let program = self.bin.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let nothing = || std::process::Stdio::null();
        command
            .current_dir(self.folder.path())
            .args(arguments)
            .stdin(nothing())
            .stdout(nothing())
            .stderr(nothing());
        command.status().unwrap().success()
    }
}

/// A folder that the server may write.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid)).unwrap();
    }
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// A tablespace on a file system of its own, which can be full.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

impl SmallDisk {
    /// To the last byte.
    pub(crate) fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Server {
    /// `None` where nothing can be mounted.
    pub(crate) fn small_disk(&self, tablespace: &str) -> Option<SmallDisk> {
        let path = self.folder.path().join(tablespace);
        std::fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&path).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let disk = SmallDisk { path: path.clone() };
        let owner = std::fs::metadata(self.folder.path()).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        let location = path.display();
        self.sql("postgres", &format!("CREATE TABLESPACE {tablespace} LOCATION '{location}'"));
        Some(disk)
    }
}

/// PgBouncer before the server, in session mode, on a socket of its own.
pub(crate) struct Pooler {
    process: std::process::Child,
    folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pooler {
    /// `None` where PgBouncer is not installed: `test` is left out.
    pub(crate) fn before(server: &Server, test: &str, roles: &[&str]) -> Option<Pooler> {
        Pooler::in_mode("session", server, test, roles)
    }

    /// `mode`: for how long a client has one connection of the server's.
    pub(crate) fn in_mode(mode: &str, server: &Server, test: &str, roles: &[&str]) -> Option<Pooler> {
        let folder = folder();
        let path = folder.path().display();
        let users: String = roles.iter().map(|role| format!("\"{role}\" \"\"\n")).collect();
        std::fs::write(folder.path().join("users"), users).unwrap();
        let configured = format!(
            "[databases]\nbill = host={} dbname=bill\n[pgbouncer]\nlisten_port = 5432\nunix_socket_dir = {path}\n\
             auth_type = trust\nauth_file = {path}/users\npool_mode = {mode}\n",
            server.folder.path().display()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, configured).unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses to be root's, too.
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        let nothing = || std::process::Stdio::null();
        let started =
            command.arg("-q").arg(&file).stdin(nothing()).stdout(nothing()).stderr(nothing()).spawn();
        let Ok(process) = started else {
            skip(test, "PgBouncer is not installed");
            return None;
        };
        let pooler = Pooler { process, folder };
        super::agent::until("the pooler listens", || {
            std::os::unix::net::UnixStream::connect(pooler.folder.path().join(".s.PGSQL.5432")).is_ok()
        });
        Some(pooler)
    }

    pub(crate) fn url(&self, role: &str) -> String {
        format!("postgresql:///bill?host={}&user={role}", self.folder.path().display())
    }
}
