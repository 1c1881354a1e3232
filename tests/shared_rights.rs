//! What the roles of a shared ledger may do in the database, and that it is all: one that appends, and one that reads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use agent::*;
use hosts::*;
use server::Server;

#[test]
fn a_role_that_appends_may_do_nothing_else() {
    let Some(server) = Server::start("a role that appends", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    let mut as_host = server.connect_as("bill", "hv3");
    let tables: Vec<String> = server
        .connect("bill")
        .query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(tables.len() > 30, "{tables:?}");
    let mut refused = |sql: &str| {
        let error = as_host.batch_execute(sql).expect_err(sql);
        let code = error.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
    };
    for table in &tables {
        refused(&format!("DELETE FROM {table}"));
        refused(&format!("TRUNCATE {table}"));
        refused(&format!("DROP TABLE {table}"));
        refused(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
        if table != "ledger_version" {
            refused(&format!("SELECT * FROM {table}"));
        }
        if table != "inbox" {
            refused(&format!("INSERT INTO {table} DEFAULT VALUES"));
        }
    }
    for column in ["agent", "file", "number", "part", "at", "body", "sent", "arrived"] {
        refused(&format!("UPDATE inbox SET {column} = {column}"));
    }
    refused("UPDATE agent SET number = 0");
    refused("UPDATE lease SET until = 0");
    refused("UPDATE ledger_version SET version = 0");
    refused("SELECT body FROM inbox");
    refused("CREATE TABLE own (one BIGINT)");
    for sql in [
        "CREATE SCHEMA own",
        "CREATE FUNCTION own() RETURNS BIGINT LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER own BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE POLICY own2 ON inbox USING (true)",
        "CREATE INDEX own ON inbox (body)",
        "COPY inbox TO STDOUT",
        "COPY (SELECT body FROM inbox) TO STDOUT",
        "COPY inbox TO '/tmp/inbox'",
        "DO $$ BEGIN LOCK TABLE run IN SHARE MODE; END $$",
        "GRANT SELECT ON inbox TO hv2",
        "ALTER ROLE hv2 NOLOGIN",
        "CREATE ROLE hv9",
        "SET ROLE usage",
        "SET SESSION AUTHORIZATION hv2",
        "SET SESSION AUTHORIZATION usage",
        "SELECT arrived FROM inbox",
        "SELECT skew, arrived FROM agent",
        "SELECT nextval('run_id_seq')",
        "SELECT setval('run_id_seq', 1)",
        "SELECT pg_read_file('/etc/passwd')",
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('hv3', 'f', 9, 0, 0, 'x', 0) RETURNING body",
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('hv3', 'f', 9, 0, 0, 'x', 0) ON CONFLICT (agent, \
         file, number, part) DO UPDATE SET body = 'y'",
    ] {
        refused(sql);
    }
    // In another host's name; when it arrived.
    refused(
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('hv2', 'f', 9, 0, 0, '{}', 0)",
    );
    refused(
        "INSERT INTO inbox (agent, file, number, part, at, body, sent, arrived) VALUES ('hv3', 'f', 9, 0, 0, '{}', 0, 0)",
    );
    // It does not even see that another has sent something.
    assert_eq!(as_host.query("SELECT number FROM inbox", &[]).unwrap().len(), 0);
    as_host
        .batch_execute(
            "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('hv3', 'f', 9, 0, 0, 'x', 0)",
        )
        .unwrap();
    // What can't be read stops nothing else.
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

#[test]
fn a_role_that_reads_sees_everything_and_changes_nothing() {
    let Some(server) = Server::start("a role that reads", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let grants = world.agent(&["ledger", "init"]).exits(0).out;
    server.sql("bill", "CREATE ROLE reader LOGIN; CREATE ROLE submitter LOGIN; CREATE ROLE appender");
    server.sql("bill", &grants);
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &configured.replace("user=usage", "user=reader"));
    world.agent(&["status"]).exits(0);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("1.50");
    world.agent(&["collect"]).exits(78).says("SQLSTATE 42501").says("the role `reader` may not do that");
    world.write("agent.yaml", &configured.replace("user=usage", "user=submitter"));
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
}

/// What the catalog of the database says of a role: no more than `ledger init` grants, whatever a statement may be called.
#[test]
fn the_rights_of_each_role_are_those_that_are_printed_and_no_more() {
    let Some(server) = Server::start("the rights of roles", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let of_tables = |role: &str| {
        texts(
            &server,
            &format!(
                "SELECT DISTINCT privilege_type::text || ' ' || relname::text || CASE relkind WHEN 'S' THEN ' (sequence)' ELSE '' END
                 FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'public'::regnamespace
                 AND grantee IN (0, '{role}'::regrole) ORDER BY 1"
            ),
        )
    };
    let of_columns = |role: &str| {
        texts(
            &server,
            &format!(
                "SELECT privilege_type::text || ' ' || relname::text || ' ' || string_agg(attname::text, ' ' ORDER BY attname::text)
                 FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
                 WHERE relnamespace = 'public'::regnamespace AND grantee IN (0, '{role}'::regrole)
                 GROUP BY privilege_type, relname ORDER BY 1"
            ),
        )
    };
    assert_eq!(of_tables("appender"), ["SELECT ledger_version"]);
    assert_eq!(
        of_columns("appender"),
        [
            "INSERT inbox agent at body file number part sent",
            "SELECT agent at file name number patience retired",
            "SELECT inbox agent at file number part",
        ]
    );
    // The host's own role has nothing beside.
    assert_eq!((of_tables("hv2"), of_columns("hv2")), (Vec::new(), Vec::new()));
    let of_reader = of_tables("reader");
    assert!(
        of_reader.len() > 30 && of_reader.iter().all(|right| right.starts_with("SELECT ")),
        "{of_reader:?}"
    );
    assert_eq!(of_columns("reader"), [""; 0]);
    let policies = texts(
        &server,
        "SELECT tablename::text || ' ' || policyname::text || ' ' || cmd || ' ' || array_to_string(roles, ',') || ' ' ||
         coalesce(qual, '') || ' ' || coalesce(with_check, '') FROM pg_policies WHERE schemaname = 'public' ORDER BY 1",
    );
    let own_agent = "(agent = (SESSION_USER)::text)";
    assert_eq!(
        policies,
        [
            "agent own SELECT public (name = (SESSION_USER)::text) ".to_owned(),
            "agent reads SELECT reader true ".to_owned(),
            "agent submits ALL submitter true true".to_owned(),
            format!("inbox own ALL public {own_agent} {own_agent}"),
            "inbox reads SELECT reader true ".to_owned(),
            "inbox submits ALL submitter true true".to_owned(),
        ]
    );
    // None of them is another, or may become one.
    let members = "SELECT member::regrole::text || ' of ' || roleid::regrole::text FROM pg_auth_members
                   WHERE member::regrole::text IN ('hv2', 'appender', 'reader') ORDER BY 1";
    assert_eq!(texts(&server, members), ["hv2 of appender"]);
    let mut reads = server.connect_as("bill", "reader");
    for sql in [
        "UPDATE lease SET until = 0",
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('reader', 'f', 9, 0, 0, 'x', 0)",
        "DELETE FROM sent",
        "UPDATE line SET posted = '0.00'",
        "CREATE TABLE own (one BIGINT)",
        "SELECT nextval('run_id_seq')",
    ] {
        let error = reads.batch_execute(sql).expect_err(sql);
        assert_eq!(
            error.code().map(|code| code.code().to_owned()).as_deref(),
            Some("42501"),
            "{sql}: {error}"
        );
    }
}

/// `check` tries it, before anything is lost.
#[test]
fn a_role_that_may_not_do_what_its_file_wants_is_told_by_check() {
    let Some(server) = Server::start("roles that may too little", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let check = |file: &str| agent_of(&world, file, &["check"]);
    check("hv2.yaml").exits(0).says("agent hv2: appends to the ledger");
    // Another agent's name, and a role that only reads.
    configure_host(&world, "hv3", &server.url("bill", "hv2"));
    check("hv3.yaml").exits(78).says("agent hv3: nothing can be appended").says("GRANT appender");
    configure_host(&world, "reader", &server.url("bill", "reader"));
    check("reader.yaml").exits(78).says("agent reader: nothing can be appended");
    // One for all hosts keeps its checkpoint in the shared ledger.
    let text = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    world.write("once.yaml", &text.replace("    plugin: exec\n", "    plugin: exec\n    once: true\n"));
    check("once.yaml").exits(78).says("collector source is `once: true`").says("may not write");
    // What was granted before an upgrade made a table.
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("submits.yaml", &text.replace("user=usage", "user=submitter"));
    check("submits.yaml").exits(0).says("agent hv1: appends to the ledger");
    server.sql("bill", "REVOKE UPDATE ON lease FROM submitter; REVOKE INSERT ON moved FROM submitter");
    check("submits.yaml").exits(78).says("the role `submitter` may not write moved, lease");
    // Nothing of it stays.
    assert_eq!(server.number("bill", "SELECT count(*) FROM inbox"), 0);
}
