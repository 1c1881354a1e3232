//! `ledger`: makes a shared ledger, and moves one between a file and a database. It counts and reports nothing.

use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failed};
use super::setup::{Setup, count};
use super::text::fold;
use crate::config::place::{Database, Place};
use crate::daemon::instance;
use crate::ledger::Ledger as Books;

mod server;

/// Make a shared ledger, move one, or say which Waldur one reports to.
#[derive(Debug, Args)]
pub(super) struct Ledger {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Make the tables of the ledger that the configuration names, and say what to grant to other roles.
    Init,
    /// Copy a ledger, row by row, into one that is empty, and prove that it is the same. Stop every agent first.
    Copy {
        /// What to copy: the path of a file, or postgresql://ROLE@HOST/DATABASE.
        from: String,
        /// Where to: likewise. A file is made, and the tables of a database, too.
        to: String,
        /// Whose its sources become in a database, or are taken for in a file; else this agent's.
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Show which Waldur the ledger reports to; or say that it has another address now.
    ///
    /// Of another server the ledger says nothing: nothing is sent to one that `waldur.url` names instead.
    Server {
        /// `waldur.url` is the new address of the server that the ledger reports to. It is asked whether it knows the
        /// ledger's resources.
        #[arg(long)]
        renamed: bool,
        /// Don't ask at a terminal before it is done.
        #[arg(long, requires = "renamed")]
        yes: bool,
    },
}

impl Ledger {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        match self.command {
            LedgerCommand::Server { renamed: false, .. } => server::show(setup, out),
            LedgerCommand::Server { yes, .. } => server::rename(setup, yes, out).await,
            LedgerCommand::Init => init(setup, out),
            LedgerCommand::Copy { from, to, agent } => {
                let (from, to) = (place(setup, &from)?, place(setup, &to)?);
                let agent = match agent {
                    Some(agent) => agent,
                    // Between two files nothing changes hands.
                    None if from.file().is_some() && to.file().is_some() => String::new(),
                    None => setup.settings.agent_name().map_err(|why| Failed::new(Exit::Config, why))?,
                };
                copy(setup, (&from, &to), &agent, out)
            }
        }
    }
}

fn init(setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
    let place = &setup.settings.ledger;
    let was_there = place.file().is_some_and(Path::exists);
    if let Place::Database(database) = place {
        Books::refuse_lent_connections(database)?;
    }
    Books::make(place)?;
    if place.file().is_some() {
        let is = if was_there { "was there already, and is up to date" } else { "is made" };
        let words = format!(
            "The ledger {place} {is}. A file needs no `ledger init`: whatever writes to it first makes it."
        );
        writeln!(out, "{}", fold(&words, 2))?;
        return Ok(Exit::Ok);
    }
    writeln!(out, "-- The ledger {place} is made.")?;
    let Some(schema) = Books::schema_of(place)? else { return Ok(Exit::Ok) };
    write!(
        out,
        "-- For a role that only reads (status, explain, export, diff, the page):\n\
         GRANT USAGE ON SCHEMA {schema} TO reader;\n\
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader;\n\
         CREATE POLICY reads ON {schema}.inbox FOR SELECT TO reader USING (true);\n\
         CREATE POLICY reads ON {schema}.agent FOR SELECT TO reader USING (true);\n\
         -- For another role that submits:\n\
         GRANT USAGE ON SCHEMA {schema} TO submitter;\n\
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO submitter;\n\
         GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO submitter;\n\
         CREATE POLICY submits ON {schema}.inbox TO submitter USING (true) WITH CHECK (true);\n\
         CREATE POLICY submits ON {schema}.agent TO submitter USING (true) WITH CHECK (true);\n\
         -- So that no role can put anything where this one looks things up:\n\
         REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;\n\
         -- For hosts that only collect, each with a role that is called as its agent is (GRANT appender TO hv17):\n\
         GRANT USAGE ON SCHEMA {schema} TO appender;\n\
         GRANT SELECT ON {schema}.ledger_version TO appender;\n\
         GRANT SELECT (name, file, number, at, patience, retired) ON {schema}.agent TO appender;\n\
         GRANT SELECT (agent, file, number, part, at) ON {schema}.inbox TO appender;\n\
         GRANT INSERT (agent, file, number, part, at, body, sent) ON {schema}.inbox TO appender;\n"
    )?;
    Ok(Exit::Ok)
}

/// A ledger of the command line; a database has the password that the configuration names for its own.
fn place(setup: &Setup, text: &str) -> Result<Place, Failed> {
    let place = match Place::parse(text) {
        Ok(place) => place,
        // Of a shell, a path may be relative.
        Err(_) if !text.contains("://") => Place::File(text.into()),
        Err(why) => return Err(Failed::new(Exit::Config, why)),
    };
    Ok(match (place, &setup.settings.ledger) {
        (Place::Database(database), Place::Database(configured)) => {
            Place::Database(Database { password_file: configured.password_file.clone(), ..database })
        }
        (place, _) => place,
    })
}

fn copy(
    setup: &Setup,
    (from, to): (&Place, &Place),
    agent: &str,
    out: &mut dyn Write,
) -> Result<Exit, Failed> {
    for place in [from, to] {
        if let Some(daemon) = instance::running(place) {
            let name = daemon.name();
            return Err(Failed::new(
                Exit::Pending,
                format!(
                    "a daemon is at work on the ledger {place}: {name}; stop it first, so that nothing is left behind"
                ),
            ));
        }
    }
    let queue = Place::File(setup.settings.queue.file.clone());
    let open_queue = || Books::open_queue(&queue, (*setup.rulebook).clone(), &setup.clock);
    let moves = from.file().is_some() != to.file().is_some();
    let is_own = moves && setup.settings.agent_name().is_ok_and(|own| own == agent);
    if let (Place::Database(_), true) = (from, queue.file().is_some_and(Path::exists)) {
        let waiting = open_queue()?.not_sent()?;
        if is_own && waiting > 0 {
            let why = format!("{waiting} runs of this host wait in {queue}: `flush` sends them first");
            return Err(Failed::new(Exit::Pending, why));
        }
    }
    let once = setup.definitions.iter().filter(|definition| definition.once);
    let once: Vec<&str> = once.map(|definition| definition.name.as_str()).collect();
    let counts = Books::copy(from, to, agent, &once)?;
    let rows: i64 = counts.iter().map(|(_, rows)| rows).sum();
    writeln!(out, "Copied {rows} rows of {} tables; both sides count the same.", counts.len())?;
    let mut copied = Books::open(to, (*setup.rulebook).clone())?;
    if is_own {
        // A source with history is read on from where it was.
        match to {
            Place::Database(_) => {
                copied.append_as(agent);
                let progress = copied.progress()?;
                open_queue()?.go_on_at(&progress)?;
            }
            Place::File(_) if queue.file().is_some_and(Path::exists) => {
                let progress = open_queue()?.progress()?;
                copied.go_on_at(&progress)?;
            }
            Place::File(_) => {}
        }
    }
    let differences = copied.recount_rehearsal(None, setup.clock.now())?;
    if !differences.is_empty() {
        let words = format!(
            "{} differ from what its readings make: as they did before, or `recount` of {from} would tell.",
            count(differences.len(), "amount")
        );
        writeln!(out, "{}", fold(&words, 2))?;
        return Ok(Exit::Differs);
    }
    let words =
        format!("Its readings make the amounts that it holds. Name it in `ledger:`, and put {from} away.");
    writeln!(out, "{}", fold(&words, 2))?;
    Ok(Exit::Ok)
}
