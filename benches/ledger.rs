//! What the ledger costs: a run appended to the queue and counted, each against the plainest possible insert of the same
//! rows with the same durability, and statements brought up to date. Run with `cargo bench --bench ledger`, or one of them by its name (`-- ingest`); figures are
//! processor time, and ratios within one run.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};
use waldur_usage_agent::collectors::Problem;
use waldur_usage_agent::collectors::spool::Spool;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::ledger::books::catalog::KnownResource;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::meter::Rules;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading};

mod cpu;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const COMPONENTS: [&str; 4] = ["cpu_seconds", "gpu_seconds", "io_bytes", "net_bytes"];

fn main() -> Outcome {
    // `cargo test --benches` only asks whether it still runs.
    let small = cfg!(debug_assertions);
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    // `-- month 1000` is one of another size.
    let sizes: Vec<i64> = named.iter().filter_map(|text| text.parse().ok()).collect();
    let size = |usual: i64| sizes.first().copied().unwrap_or(usual);
    let wanted = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    if wanted("ingest") {
        // A ledger as it is on its first day, and one with some history.
        for rows in if small { [1_000, 2_000] } else { [100_000, 1_000_000] } {
            ingest(usize::try_from(size(rows))?)?;
        }
    }
    if wanted("statements") {
        statements(usize::try_from(size(if small { 20 } else { 10_000 }))?)?;
    }
    if wanted("month") {
        month(size(if small { 50 } else { 8_640 }))?;
    }
    Ok(())
}

fn rulebook() -> Rulebook {
    let mut yaml = format!(
        "collectors:\n  c:\n    resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\n    user: '{{user}}'\n    meters:\n"
    );
    for component in COMPONENTS {
        yaml += &format!("      {component}_used: {{ reading: {component}, factor: 1/3600 }}\n");
    }
    let (mut root, problems) = Section::parse(&yaml);
    let rules = root.named_sections("collectors").iter_mut().filter_map(Rules::from_section).collect();
    assert_eq!(problems.list(), []);
    Rulebook { zone: BillingZone::utc(), rules }
}

fn start() -> Timestamp {
    Timestamp::constant(1_793_491_200, 0)
}

fn minute(number: i64) -> Timestamp {
    start() + SignedDuration::from_mins(number)
}

fn open(folder: &tempfile::TempDir, resources: usize) -> Outcome<Ledger> {
    let mut ledger = Ledger::open(&folder.path().join("ledger.db"), rulebook())?;
    ledger.apply_rules(start())?;
    let offering = OFFERING.parse()?;
    let known = (0..resources).map(|n| KnownResource {
        uuid: uuid::Uuid::from_u128(n as u128 + 1),
        offering,
        name: format!("resource {n}"),
        backend_id: format!("a{n}"),
        state: "OK".to_owned(),
        plan: None,
        customer: String::new(),
        project: String::new(),
    });
    ledger.put_resources(known.collect(), Some(offering), start())?;
    Ok(ledger)
}

fn run(at: Timestamp, readings: Vec<Reading>) -> Run {
    Run::seen("c", at, readings)
}

fn reading(account: usize, user: usize, component: &str, value: i64, at: Timestamp) -> Reading {
    Reading::new(component, Kind::Counter, value.into(), at)
        .label("account", format!("a{account}"))
        .label("user", format!("u{user}"))
}

/// New readings of known series, in batches of 1,000, a transaction each.
fn ingest(rows: usize) -> Outcome {
    let folder = tempfile::tempdir()?;
    let batch = |round: i64| -> Vec<Reading> {
        (0..1_000)
            .map(|n| reading(n / 10, n % 10, "cpu_seconds", round * 60 + n as i64, minute(round)))
            .collect()
    };
    let plain = Connection::open(folder.path().join("plain.db"))?;
    plain.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE reading (account TEXT, user TEXT, name TEXT, at INTEGER, value TEXT,
                               PRIMARY KEY (account, user, name, at)) WITHOUT ROWID",
    )?;
    let insert = |readings: Vec<Reading>| -> Outcome {
        let transaction = plain.unchecked_transaction()?;
        for r in readings {
            let at = r.span.end().as_microsecond();
            transaction
                .prepare_cached("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![r.labels["account"], r.labels["user"], r.name, at, r.value.to_string()])?;
        }
        Ok(transaction.commit()?)
    };
    let mut ledger = open(&folder, 100)?;
    ledger.record(run(start(), batch(0)))?;
    insert(batch(0))?;
    let (mut plainly, mut appended, mut counted) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 1..=rows as i64 / 1_000 {
        let (theirs, readings) = (batch(round), batch(round));
        let began = cpu::of_thread()?;
        insert(theirs)?;
        plainly += cpu::of_thread()? - began;
        let began = cpu::of_thread()?;
        ledger.append(run(minute(round), readings), &mut Spool::default())?;
        appended += cpu::of_thread()? - began;
        let began = cpu::of_thread()?;
        ledger.count_queued()?;
        counted += cpu::of_thread()? - began;
    }
    let began = cpu::of_thread()?;
    let stated = ledger.state(minute(rows as i64 / 1_000))?;
    let stating = cpu::of_thread()? - began;
    let rate = |time: Duration| rows as f64 / time.as_secs_f64();
    let ratio = |time: Duration| rate(time) / rate(plainly);
    println!(
        "ingest of {rows}: the plainest insert {:.0} rows/s; appended {:.0} readings/s: ratio {:.2}; counted {:.0}: ratio \
         {:.2}; both: ratio {:.2}; {stated} amounts stated in {stating:.2?}",
        rate(plainly),
        rate(appended),
        ratio(appended),
        rate(counted),
        ratio(counted),
        ratio(appended + counted)
    );
    Ok(())
}

/// One new reading for each of `resources`, each of which has 4 components x 10 users; three times, each beside the plainest
/// program that reads a component's ten numbers, adds them up, and writes the one that changed and the sum.
fn statements(resources: usize) -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut ledger = open(&folder, resources)?;
    for round in 0..2 {
        let mut readings = Vec::new();
        for resource in 0..resources {
            for component in COMPONENTS {
                readings.extend(
                    (0..10).map(|user| reading(resource, user, component, round * 100, minute(round))),
                );
            }
        }
        ledger.record(run(minute(round), readings))?;
    }
    ledger.state(minute(1))?;
    let plain = plain_statements(&folder, resources)?;
    for round in 2..5 {
        let at = minute(round);
        let one = (0..resources).map(|r| reading(r, r % 10, "cpu_seconds", round * 2_500, at)).collect();
        // A run that did not see everything: nothing is concluded of the series that it leaves out.
        let mut partial = run(at, one);
        if let RunOutcome::Seen(Seen { problems, .. }) = &mut partial.outcome {
            problems.push(Problem::of_all("the rest was not read".to_owned()));
        }
        let began = cpu::of_thread()?;
        ledger.record(partial)?;
        let counted = cpu::of_thread()? - began;
        let began = cpu::of_thread()?;
        let stated = ledger.state(at)?;
        let stating = cpu::of_thread()? - began;
        let began = cpu::of_thread()?;
        state_plainly(&plain, resources, round)?;
        let plainly = cpu::of_thread()? - began;
        println!(
            "statements: a run of {resources} counted in {counted:.2?}, {stated} brought up to date in {stating:.2?}, {:.1} \
             times the plainest way's {plainly:.2?}",
            stating.as_secs_f64() / plainly.as_secs_f64()
        );
    }
    Ok(())
}

fn plain_statements(folder: &tempfile::TempDir, resources: usize) -> Outcome<Connection> {
    let plain = Connection::open(folder.path().join("plain.db"))?;
    plain.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -2048;
         CREATE TABLE quantity (resource TEXT, component TEXT, user TEXT, amount TEXT,
                                PRIMARY KEY (resource, component, user)) WITHOUT ROWID;
         CREATE TABLE line (resource TEXT, component TEXT, user TEXT, amount TEXT,
                            PRIMARY KEY (resource, component, user)) WITHOUT ROWID; BEGIN",
    )?;
    for table in ["quantity", "line"] {
        let mut insert = plain.prepare(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, '100')"))?;
        for resource in 0..resources {
            for component in COMPONENTS {
                for user in 0..10 {
                    insert.execute(params![uuid_text(resource), component, format!("u{user}")])?;
                }
            }
        }
    }
    plain.execute_batch("COMMIT")?;
    Ok(plain)
}

fn uuid_text(resource: usize) -> String {
    uuid::Uuid::from_u128(resource as u128 + 1).to_string()
}

fn state_plainly(plain: &Connection, resources: usize, round: i64) -> Outcome {
    let transaction = plain.unchecked_transaction()?;
    for resource in 0..resources {
        let of = uuid_text(resource);
        let mut sum = 0;
        let mut query = transaction
            .prepare_cached("SELECT user, amount FROM quantity WHERE resource = ?1 AND component = ?2")?;
        let mut rows = query.query(params![of, COMPONENTS[0]])?;
        while let Some(row) = rows.next()? {
            sum += row.get::<_, String>(1)?.parse::<i64>()? + round;
        }
        let mut write = transaction.prepare_cached("INSERT OR REPLACE INTO line VALUES (?1, ?2, ?3, ?4)")?;
        for user in [format!("u{}", resource % 10), String::new()] {
            write.execute(params![of, COMPONENTS[0], user, (sum + round).to_string()])?;
        }
    }
    Ok(transaction.commit()?)
}

/// What the next reading of one resource costs early in a month, and after `readings` more.
fn month(readings: i64) -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut ledger = open(&folder, 1)?;
    let mut cost = |number: i64| -> Outcome<Duration> {
        let began = cpu::of_thread()?;
        ledger
            .record(run(minute(number), vec![reading(0, 0, "cpu_seconds", number * 60, minute(number))]))?;
        ledger.state(minute(number))?;
        Ok(cpu::of_thread()? - began)
    };
    let mut average = |from: i64| -> Outcome<Duration> {
        let costs = (from..from + 20).map(&mut cost).collect::<Outcome<Vec<_>>>()?;
        Ok(costs.iter().sum::<Duration>() / 20)
    };
    let early = average(0)?;
    for number in (20..readings).step_by(20) {
        average(number)?;
    }
    let late = average(readings)?;
    let ratio = late.as_secs_f64() / early.as_secs_f64();
    println!(
        "month: a run of one reading costs {early:.2?} at first, {late:.2?} after {readings}: ratio {ratio:.2}"
    );
    Ok(())
}
