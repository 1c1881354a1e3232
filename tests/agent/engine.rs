//! Which engine the tests' ledgers have: SQLite, or the PostgreSQL whose socket is in the directory that
//! WALDUR_TEST_POSTGRES names (tests/with-postgres starts one). There each ledger has a role and a schema of its own.
#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use postgres::{Client, NoTls, SimpleQueryMessage};
use waldur_usage_agent::config::place::Place;
use waldur_usage_agent::ledger::Ledger;

/// The directory of the server's socket, if the ledgers are at one.
fn socket() -> Option<String> {
    std::env::var("WALDUR_TEST_POSTGRES").ok()
}

/// Whether the ledgers are in a database.
pub fn is_shared() -> bool {
    socket().is_some()
}

/// The role and the schema of the ledger of this folder.
fn name(folder: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    format!("t{:016x}", hasher.finish())
}

/// Does something as an administrator of the server.
fn at_server<T: Send>(socket: &str, work: impl FnOnce(&mut Client) -> T + Send) -> T {
    let work = || {
        let config = format!("host={socket} user=postgres dbname=postgres");
        work(&mut Client::connect(&config, NoTls).unwrap())
    };
    // Not within a runtime that waits already.
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// The ledger of this folder, as `ledger:` names it. In a database its tables are still to be made.
fn ledger(folder: &Path) -> String {
    let Some(socket) = socket() else { return folder.join("ledger.db").display().to_string() };
    let name = name(folder);
    at_server(&socket, |admin| {
        let there = admin.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&name]).unwrap();
        if there.is_none() {
            admin
                .batch_execute(&format!(
                    "CREATE ROLE {name} LOGIN; CREATE SCHEMA {name} AUTHORIZATION {name}"
                ))
                .unwrap();
        }
    });
    format!("postgresql:///postgres?host={socket}&user={name}")
}

/// The ledger of this folder, ready to be opened.
pub fn place(folder: &Path) -> Place {
    let place = Place::parse(&ledger(folder)).unwrap();
    if is_shared() {
        Ledger::make(&place).unwrap();
    }
    place
}

/// Makes as if there never was a ledger of this folder.
pub fn forget(folder: &Path) {
    let Some(socket) = socket() else {
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            drop(std::fs::remove_file(folder.join(name)));
        }
        return;
    };
    let name = name(folder);
    at_server(&socket, |admin| {
        let gone = format!("DROP SCHEMA IF EXISTS {name} CASCADE; DROP ROLE IF EXISTS {name}");
        admin.batch_execute(&gone).unwrap();
    });
}

/// What a query of texts finds in the ledger of this folder.
pub fn rows(folder: &Path, sql: &str) -> Vec<Vec<String>> {
    let Some(socket) = socket() else {
        let ledger = rusqlite::Connection::open(folder.join("ledger.db")).unwrap();
        let mut query = ledger.prepare(sql).unwrap();
        let columns = query.column_count();
        let rows = query.query_map([], |row| (0..columns).map(|column| row.get(column)).collect()).unwrap();
        return rows.map(Result::unwrap).collect();
    };
    let name = name(folder);
    at_server(&socket, |admin| {
        admin.batch_execute(&format!("SET search_path = {name}")).unwrap();
        let answer = admin.simple_query(sql).unwrap();
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        rows.collect()
    })
}
