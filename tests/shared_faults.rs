//! What a database does to its agents when it is ill: killed in the middle of a transaction, out of connections or of space, a
//! statement that takes too long, a connection that hangs, another server in its place. Nothing is lost, nothing is counted
//! twice, and the operator is told the true cause and what was kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use agent::*;
use hosts::*;
use serde_json::Value;
use server::Server;

fn collect(world: &World, lines: &[Value]) -> Done {
    collect_on(world, "hv2", lines)
}

/// Counted once, and as the readings say.
fn agrees(world: &World, amount: &str) {
    until("its turn is over", || world.flush_once().code == 0);
    assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {amount}")]);
    world.agent(&["recount"]).exits(0);
}

/// Between an agent and a server: a port of this machine before the server's socket.
struct Between {
    port: u16,
    server: Arc<Mutex<PathBuf>>,
    hangs: Arc<AtomicBool>,
}

impl Between {
    fn at(server: &Server) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Between {
            port: listener.local_addr().unwrap().port(),
            server: Arc::new(Mutex::new(server.socket())),
            hangs: Arc::default(),
        };
        let (server, hangs) = (between.server.clone(), between.hangs.clone());
        std::thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&*server.lock().unwrap()) else { continue };
                let (from, to) = (agent.try_clone().unwrap(), server.try_clone().unwrap());
                let (one, other) = (hangs.clone(), hangs.clone());
                std::thread::spawn(move || carry(from, to, &one));
                std::thread::spawn(move || carry(server, agent, &other));
            }
        });
        between
    }

    /// From now on nothing comes through, and nobody is told.
    fn hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    fn url(&self, role: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/bill?sslmode=disable", self.port)
    }
}

trait Stream: Read + Write {
    fn close(&self);
}

impl Stream for TcpStream {
    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

fn carry(mut from: impl Stream, mut to: impl Stream, hangs: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        while hangs.load(Ordering::Relaxed) {
            pause(std::time::Duration::from_millis(10));
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    from.close();
    to.close();
}

#[test]
fn killed_in_the_middle_of_a_transaction_it_has_all_of_it_or_nothing() {
    let Some(mut server) = Server::start("killed in mid-transaction", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    collect(&world, &[hours("1", "3600")]).exits(0);
    let daemon = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    for (table, id) in [("quantity", "2"), ("run", "3"), ("series", "4")] {
        // What counts waits in the middle of its transaction: what has arrived is taken, and not counted.
        let mut admin = server.connect("bill");
        let mut held = admin.transaction().unwrap();
        held.batch_execute(&format!("LOCK TABLE {table} IN EXCLUSIVE MODE")).unwrap();
        let all: Vec<Value> =
            (1..=id.parse().unwrap()).map(|id: u32| hours(&id.to_string(), "3600")).collect();
        collect(&world, &all).exits(0);
        server.waits_for_a_lock();
        server.kill();
        drop(held);
        server.restart();
        let wanted = format!("cpu_hours 2026-11 {id}.00");
        world.in_time(&wanted, || world.rows(A) == [wanted.as_str()]);
    }
    drop(daemon);
    agrees(&world, "4.00");
    assert_eq!(
        world.reports(),
        ["cpu_hours=1.00", "cpu_hours=2.00", "cpu_hours=3.00", "cpu_hours=4.00"],
        "nothing is reported twice"
    );
}

#[test]
fn out_of_connections_runs_wait_on_their_host() {
    let Some(server) = Server::start("out of connections", &["-c", "max_connections=8"]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let others: Vec<_> = (0..5).map(|_| server.connect("bill")).collect();
    let done = collect(&world, &[hours("1", "3600")]).exits(75);
    done.says("SQLSTATE 53300").says("max_connections").says("nothing was lost, it is tried again");
    drop(others);
    collect(&world, &[hours("1", "3600"), hours("2", "3600")]).exits(0);
    agrees(&world, "2.00");
}

/// Each table in turn is on a small disk that is full.
#[test]
fn out_of_space_runs_wait_on_their_host_and_nothing_is_half_counted() {
    const TEST: &str = "out of space";
    let Some(server) = Server::start(TEST, &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let Some(disk) = server.small_disk("small") else {
        return skip(TEST, "a tmpfs can't be mounted (needs root)");
    };
    let full = |table: &str| {
        server.sql("bill", &format!("ALTER TABLE {table} SET TABLESPACE small"));
        disk.fill();
    };
    let freed = |table: &str| {
        disk.free();
        server.sql("bill", &format!("ALTER TABLE {table} SET TABLESPACE pg_default"));
    };
    let told = |done: Done| {
        done.exits(75)
            .says("SQLSTATE 53100")
            .says("no space is left on the server's disk")
            .says("nothing was lost, it is tried again");
    };
    full("inbox");
    told(collect(&world, &[hours("1", "3600")]));
    freed("inbox");
    collect(&world, &[hours("1", "3600"), hours("2", "3600")]).exits(0);
    for table in ["quantity", "line", "sent"] {
        full(table);
        told(world.flush_once());
        assert_eq!(world.rows(A), [""; 0], "{table}");
        freed(table);
    }
    agrees(&world, "2.00");
    assert_eq!(world.reports(), ["cpu_hours=2.00"]);
    // And a daemon that is at work meanwhile says it in its log, and goes on.
    let host = daemon_of(&world, "hv2.yaml");
    host.until_it_says("Ready: 1 collector");
    server.sql("bill", "TRUNCATE inbox");
    full("inbox");
    write_readings(&world, "hv2", &[hours("1", "3600"), hours("2", "3600"), hours("3", "3600")]);
    world.in_time("the log says it", || host.log().contains("no space is left on the server's disk"));
    freed("inbox");
    world.in_time("what waited is there", || {
        world.flush_once().code == 0 && world.rows(A) == ["cpu_hours 2026-11 3.00"]
    });
}

/// An agent limits its statements itself, to five minutes: what is broken off for its time is so as by an administrator, with
/// the same code.
#[test]
fn a_statement_that_takes_too_long_is_told_and_tried_again() {
    let Some(server) = Server::start("a statement that takes too long", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let broken_off = |table: &str, work: &mut dyn FnMut() -> Done| {
        let mut admin = server.connect("bill");
        let mut held = admin.transaction().unwrap();
        held.batch_execute(&format!("LOCK TABLE {table} IN EXCLUSIVE MODE")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pid = server.waits_for_a_lock();
                server.connect("bill").execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
            });
            work()
                .exits(75)
                .says("SQLSTATE 57014")
                .says("it took longer than the server allows")
                .says("nothing was lost");
        });
        held.rollback().unwrap();
    };
    broken_off("inbox", &mut || collect(&world, &[hours("1", "3600")]));
    collect(&world, &[hours("1", "3600"), hours("2", "3600")]).exits(0);
    broken_off("quantity", &mut || world.flush_once());
    assert_eq!(world.rows(A), [""; 0]);
    agrees(&world, "2.00");
    assert_eq!(world.reports(), ["cpu_hours=2.00"]);
}

#[test]
fn a_host_whose_connection_hangs_gives_up_says_so_and_sends_later() {
    let Some(server) = Server::start("a host's connection that hangs", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let between = Between::at(&server);
    configure_host(&world, "hv2", &between.url("hv2"));
    collect(&world, &[hours("1", "3600")]).exits(0);
    between.hangs(true);
    let done = collect(&world, &[hours("1", "3600"), hours("2", "3600")]).exits(75);
    done.says("can't be reached: no answer within 30 s").says("nothing was lost, it is tried again");
    between.hangs(false);
    collect(&world, &[hours("1", "3600"), hours("2", "3600"), hours("3", "3600")]).exits(0);
    agrees(&world, "3.00");
}

#[test]
fn an_agent_at_work_whose_connections_hang_stands_by_for_another() {
    let Some(server) = Server::start("an agent's connections that hang", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let between = Between::at(&server);
    configure(&world, "agent.yaml", "hv1", "readings", &between.url("usage"));
    collect(&world, &[hours("1", "3600")]).exits(0);
    let first = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    configure(&world, "second.yaml", "hv3", "none", &server.url("bill", "usage"));
    world.write("none", "");
    let second = daemon_of(&world, "second.yaml");
    second.until_it_says("Standing by: ");
    let cut = Instant::now();
    between.hangs(true);
    second.until_it_says("At work: ");
    assert!(cut.elapsed().as_secs() < 10, "{:?}", cut.elapsed());
    collect_directly(&world, &server, &[hours("1", "3600"), hours("2", "3600")]);
    world.in_time("the report of the second", || world.rows(A) == ["cpu_hours 2026-11 2.00"]);
    world.in_time("the first says why", || first.log().contains("or the database does not answer"));
    between.hangs(false);
    world.in_time("the first stands by", || first.log().contains("Standing by: "));
    drop((first, second));
    configure(&world, "agent.yaml", "hv1", "readings", &server.url("bill", "usage"));
    agrees(&world, "2.00");
    assert_eq!(world.reports(), ["cpu_hours=1.00", "cpu_hours=2.00"]);
}

fn collect_directly(world: &World, server: &Server, lines: &[Value]) {
    configure_host(world, "hv2", &server.url("bill", "hv2"));
    collect(world, lines).exits(0);
}

/// A copy that lags takes the place of the server, at another address: what it has not is sent again.
#[test]
fn a_server_that_lagged_and_takes_over_at_another_address_is_sent_what_it_lacks() {
    let Some(mut server) = Server::start("a failover", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let two = |other: &Server, role: &str| {
        let folder = |server: &Server| server.socket().parent().unwrap().display().to_string();
        format!("postgresql:///bill?host={},{}&user={role}", folder(&server), folder(other))
    };
    let standby = server.standby();
    let (usage, hv2) = (two(&standby, "usage"), two(&standby, "hv2"));
    configure(&world, "agent.yaml", "hv1", "readings", &usage);
    configure_host(&world, "hv2", &hv2);
    collect(&world, &[hours("1", "3600")]).exits(0);
    agrees(&world, "1.00");
    until("the copy has it", || {
        let counted = "SELECT count(*) FROM reading";
        standby.connect("bill").query_one(counted, &[]).unwrap().get::<_, i64>(0) == 1
    });
    standby.stop();
    collect(&world, &[hours("1", "3600"), hours("2", "7200")]).exits(0);
    agrees(&world, "3.00");
    server.kill();
    let again = [hours("1", "3600"), hours("2", "7200")];
    collect(&world, &again).exits(75).says("can't be reached");
    standby.restart();
    // It takes no writes yet.
    collect(&world, &again).exits(75);
    standby.promote();
    collect(&world, &again).exits(0);
    // What Waldur holds this ledger never heard of: it is read, and found to be what the readings make.
    agrees(&world, "3.00");
    collect(&world, &[hours("3", "3600")]).exits(0);
    agrees(&world, "4.00");
    assert_eq!(world.reports(), ["cpu_hours=1.00", "cpu_hours=3.00", "cpu_hours=4.00"]);
}
