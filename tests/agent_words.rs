//! What the operator reads when something is wrong, and the exit code that a script sees.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use agent::*;
use serde_json::json;

fn ready(api: &str) -> World {
    let world = World::new(api);
    world.configure(&cpu_hours_of_a());
    world.readings(&counter(&["0", "3600"], &[]));
    world
}

#[test]
fn a_wrong_token_is_77_and_says_which_file_it_came_from() {
    for api in BOTH {
        let world = ready(api);
        world.write("token", "wr0ng-t0ken-0000000000000000000000000000");
        let file = world.path("token").display().to_string();
        let done = world.flush().exits(77).says("the token was refused").says("Invalid token.").says(&file);
        done.says_not("wr0ng");
        // A refused token is not tried again and again.
        assert_eq!(world.requests_since(0).len(), 1, "{api}");
        world.agent(&["check"]).exits(77).says("Invalid token.").says(&file);
        // The right one is picked up without more ado.
        world.write("token", TOKEN);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    }
}

#[test]
fn a_token_file_that_is_not_there_is_told_by_its_name() {
    let world = ready(CURRENT);
    std::fs::remove_file(world.path("token")).unwrap();
    let file = world.path("token").display().to_string();
    let done = world.flush();
    assert!([77, 78].contains(&done.code), "{done:#?}");
    done.says(&file);
    world.write("token", "two words");
    world.flush().says("blank");
    assert_eq!(world.requests_since(0).len(), 0);
}

#[test]
fn a_token_without_a_role_is_77_and_the_remedy_is_named() {
    for api in BOTH {
        let world = ready(api);
        world.write("token", "stranger-token");
        world.flush().exits(77).says("You do not have permission to perform this action.");
        assert_eq!(world.rows(A), [""; 0]);
        world.agent(&["check"]).exits(77).says("OFFERING.MANAGER");
        world.write("token", TOKEN);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    }
}

#[test]
fn a_token_without_a_role_is_77_also_where_other_resources_have_nothing_to_send() {
    for api in BOTH {
        let world = World::new(api);
        let of = |resource: &str| {
            format!(
                "    resource: {resource}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }} }}\n"
            )
        };
        world.configure(&of(A));
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        world.write("agent.yaml", &format!("{text}{}", world.collector("other", "others", &of(B))));
        let one =
            |id: &str| job("cpu_seconds", id, "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "3600", &[]);
        let others = serde_json::to_string(&one("b")).unwrap();
        world.write("others", &format!("{others}\n"));
        world.readings(&[one("1")]);
        world.flush().exits(0);
        assert_eq!(world.rows(B), ["cpu_hours 2026-11 1.00"], "{api}");
        world.write("token", "stranger-token");
        world.readings(&[one("1"), one("2")]);
        let begun = std::time::Instant::now();
        world.agent(&["flush", "--collect"]).exits(77).says("OFFERING.MANAGER");
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
        world.agent(&["status"]).exits(77).says("OFFERING.MANAGER");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
        world.write("token", TOKEN);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"], "{api}");
        world.agent(&["status"]).exits(0);
    }
}

#[test]
fn a_collector_that_failed_is_told_before_one_that_was_read_in_part() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{text}{}", world.collector("zzz", "missing", &cpu_hours_of_a())));
    let right = job("cpu_seconds", "1", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "3600", &[]);
    world.write("readings", &format!("{right}\nnonsense\n"));
    world.flush_once();
    let status = world.agent(&["status"]).exits(69).out;
    let place = |name: &str| {
        status.find(&format!("Collector {name}: ")).unwrap_or_else(|| panic!("{name}: {status}"))
    };
    assert!(place("zzz") < place("source"), "{status}");
}

#[test]
fn what_stands_after_an_option_is_refused_in_plain_words_of_80_columns() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    for (arguments, words) in [
        (["export", "--period", "2026-13"], "`2026-13` is not a billing period such as 2026-11"),
        (["collect", "--since", "yesterday"], "`yesterday` is not an instant such as 2026-11-10T12:00:00Z"),
    ] {
        let said = world.agent(&arguments).exits(64).all();
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{said}");
        assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    }
}

#[test]
fn an_unknown_component_is_parked_in_the_servers_words_and_the_others_go_through() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&format!(
            "    resource: {A}\n    meters:\n      cpu_hours: {{ reading: a }}\n      cpu_hour: {{ reading: b }}\n      \
             fee: {{ reading: c }}\n"
        ));
        let one = |name: &str| job(name, "1", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "1", &[]);
        world.readings(&[one("a"), one("b"), one("c")]);
        world.flush().exits(65).says("2 amounts: parked");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
        let list = world.agent(&["parked", "list"]).exits(65);
        list.says("unknown_component").says("cpu_hour").says("fee").says("These components are invalid: ");
        world.agent(&["check"]).exits(65).says("no component `cpu_hour`").says("billed as `fixed`");
        // Not asked again and again.
        let mark = world.mark();
        world.flush().exits(65);
        assert_eq!(world.posts_since(mark).len(), 0, "{api}");
        // Mended in Waldur, tried again on request.
        world.post(
            &format!("offerings/{OFFERING}/components"),
            json!({ "type": "cpu_hour", "billing_type": "usage" }),
        );
        world.agent(&["parked", "retry"]).exits(0).says("2 items will be tried again");
        world.flush().exits(65);
        assert_eq!(world.rows(A), ["cpu_hour 2026-11 1.00", "cpu_hours 2026-11 1.00"], "{api}");
    }
}

#[test]
fn a_resource_in_the_wrong_state_is_held_and_goes_on_by_itself() {
    for api in BOTH {
        let world = ready(api);
        world.post(&format!("resources/{A}"), json!({ "state": "Erred" }));
        world.flush().exits(65).says("Resource is not in valid state").says("1 amount: held");
        world.agent(&["status"]).exits(65).says("held").says("tried again by itself");
        world.agent(&["check"]).exits(65).says("is Erred");
        world.post(&format!("resources/{A}"), json!({ "state": "OK" }));
        world.now("2026-11-10T12:11:00Z");
        world.flush().exits(0).says("2026-11: it is OK again in Waldur: what was held is tried again");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
        world.agent(&["status"]).exits(0).says("agreed");
    }
}

#[test]
fn a_terminated_resource_strands_what_it_used_until_it_lives_again() {
    for api in BOTH {
        let world = ready(api);
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        world.flush().exits(65).says("1 amount: stranded");
        world.agent(&["status"]).exits(65).says("Project A (terminated), 2026-11, stranded:");
        world.agent(&["status", "--all"]).exits(65).says("Project A (project-a, terminated), 2026-11");
        let explained = world.agent(&["explain", A, "cpu_hours"]).exits(0).says("  to post   1.00 h");
        explained.says_not("  posted ");
        let parked = world.agent(&["parked", "list"]).exits(65);
        parked
            .says("terminated")
            .says("1.00")
            .says("by hand")
            .says("running month are tried again by themselves");
        let mark = world.mark();
        world.now("2026-11-10T18:01:00Z");
        world.flush().exits(65);
        assert_eq!(world.posts_since(mark).len(), 0, "{api}");
        world.post(&format!("resources/{A}"), json!({ "state": "OK" }));
        world.now("2026-11-11T00:02:00Z");
        let told =
            format!("Project A ({A}), 2026-11: it is OK again in Waldur: what was stranded is tried again");
        world.flush().exits(0).says(&told);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
        world.agent(&["status"]).exits(0).says("agreed");
    }
}

/// Somebody may have billed it by hand since: only a person brings it onto a later month's bill.
#[test]
fn what_a_terminated_resource_left_in_a_month_that_is_over_is_not_carried_when_it_lives_again() {
    for api in BOTH {
        let world = World::of(Setting { api, now: "2026-10-20T12:00:00Z", ..Setting::default() });
        world.configure(&cpu_hours_of_a());
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        world.write("agent.yaml", &format!("{text}submit: {{ late: carry_forward }}\n"));
        let (october, december) = (
            job("cpu_seconds", "1", "2026-10-09T00:00:00Z", "2026-10-10T01:00:00Z", "90000", &[]),
            job("cpu_seconds", "2", "2026-12-02T00:00:00Z", "2026-12-02T03:00:00Z", "10800", &[]),
        );
        world.readings(std::slice::from_ref(&october));
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        world.flush().exits(65).says("1 amount: stranded");
        world.now("2026-12-05T12:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "state": "OK" }));
        world.readings(&[october, december]);
        let told = "2026-10: it is OK again in Waldur; what of this month is stranded stays so";
        let mut said = String::new();
        for _ in 0..3 {
            said += &world.flush().exits(65).all();
        }
        assert_eq!(said.matches(told).count(), 1, "{api}: {said}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-12 3.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).says("2026-10").says("25.00").says("terminated");
        world.agent(&["parked", "retry"]).exits(0);
        world.flush();
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-12 28.00"], "{api}");
    }
}

#[test]
fn an_unknown_resource_is_held_with_the_servers_words() {
    let world = World::new(CURRENT);
    world.configure(
        "    resource: 00000000-0000-4000-8000-00000000dead\n    meters:\n      cpu_hours: { reading: cpu_seconds }\n",
    );
    world.readings(&counter(&["0", "3600"], &[]));
    world.flush().exits(65).says("does not exist");
    world.agent(&["parked", "list"]).exits(65).says("unknown_resource").says("parked retry");
    world.agent(&["check"]).exits(65).says("Waldur has none with this UUID");
}

#[test]
fn a_resource_without_a_plan_is_told_by_check_before_it_costs_anything() {
    let world = ready(CURRENT);
    world.post(&format!("resources/{A}"), json!({ "plan": false }));
    world.agent(&["check"]).exits(65).says("has no plan");
    world.flush().exits(65).says("plan");
    world.agent(&["parked", "list"]).exits(65).says("no_plan").says("see that the resource has a plan");
}

#[test]
fn a_server_that_is_away_is_75_and_nothing_is_lost() {
    let mut world = ready(CURRENT);
    world.server_goes_away();
    world.flush_once().exits(75).says("cannot reach the server").says("1 statement: still pending");
    world.agent(&["check"]).exits(75).says("check `waldur.url`");
    world.server_comes_back();
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

#[test]
fn a_name_that_no_name_service_knows_is_75() {
    let world = ready(CURRENT);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace(&world.url(), "https://waldur.invalid"));
    let done = world.agent(&["flush", "--collect", "--deadline", "1s"]).exits(75);
    done.says("cannot reach the server").says("waldur.invalid");
    world.agent(&["check"]).exits(75).says("waldur.invalid").says("name service");
}

#[test]
fn plain_http_to_another_machine_needs_permission() {
    let world = ready(CURRENT);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace(&world.url(), "http://waldur.example.com"));
    world.flush().exits(78).says("line 2").says("allow_http");
}

#[test]
fn https_that_is_none_is_told_as_a_matter_of_the_connection() {
    let world = ready(CURRENT);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("url: http://", "url: https://"));
    world.agent(&["check"]).exits(75).says("no trusted connection");
    world.flush_once().exits(75).says("no trusted connection");
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    const TEST: &str = "a_full_disk_loses_nothing_and_goes_on_when_there_is_room";
    let world = ready(CURRENT);
    let disk = world.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk.to_str().unwrap()])
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip(TEST, "a tmpfs can't be mounted (needs root and CAP_SYS_ADMIN)");
    }
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let mounted = Mounted(disk.clone());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let ledger = world.path("ledger.db").display().to_string();
    let on_disk = disk.join("ledger.db").display().to_string();
    world.write("agent.yaml", &text.replace(&ledger, &on_disk));
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    // The disk is filled to its last byte.
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [65_536, 4_096, 1] {
        while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
    }
    let many: Vec<_> = (0..2_000).map(|index| (3600 * index).to_string()).collect();
    let many: Vec<_> = many
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let at = format!("2026-11-10T{:02}:{:02}:{:02}Z", 1 + index / 3600, index / 60 % 60, index % 60);
            reading("cpu_seconds", "counter", &at, value, &[("long", &"x".repeat(100))])
        })
        .collect();
    world.readings(&many);
    let done = world.flush_once();
    assert_eq!(done.code, 75, "{done:#?}");
    done.says("no space left on the disk").says("Free some space");
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    // What was there is there; the run that found no room is caught up with.
    world.agent(&["recount"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2000.00"]);
    drop(mounted);
}

/// Runs the agent as nobody; `None` where that can't be done.
fn as_nobody(world: &World, test: &str, arguments: &[&str]) -> Option<Done> {
    std::fs::set_permissions(world.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The binary itself may lie where nobody can reach it.
    let binary = world.path("agent-binary");
    if !binary.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_waldur-usage-agent"), &binary).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(arguments)
        .env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("clock"))
        .env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml"))
        .output();
    match output {
        Ok(output) if output.status.code() != Some(127) && output.status.code() != Some(1) => {
            Some(output.into())
        }
        _ => {
            skip(test, "another user can't be taken on (needs root and setpriv)");
            None
        }
    }
}

#[test]
fn a_configuration_that_can_not_be_read_is_78_and_names_the_file() {
    let world = ready(CURRENT);
    let file = world.path("agent.yaml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let test = "a_configuration_that_can_not_be_read_is_78_and_names_the_file";
    let Some(done) = as_nobody(&world, test, &["check", "--offline"]) else { return };
    done.exits(78).says("can't read the configuration file").says("Permission denied").says("agent.yaml");
}

#[test]
fn a_ledger_of_another_user_is_78_and_says_what_to_do() {
    let world = ready(CURRENT);
    world.flush().exits(0);
    let test = "a_ledger_of_another_user_is_78_and_says_what_to_do";
    let Some(done) = as_nobody(&world, test, &["status"]) else { return };
    done.exits(78).says("ledger.db").says("Permission denied").says("run as the user that owns it");
    let Some(done) = as_nobody(&world, test, &["flush"]) else { return };
    done.exits(78).says("Permission denied");
}

#[test]
fn a_token_that_can_not_be_read_is_told_by_its_file() {
    let world = ready(CURRENT);
    let token = world.path("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let folder = world.path("theirs");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let ledger = world.path("ledger.db").display().to_string();
    world.write("agent.yaml", &text.replace(&ledger, &folder.join("ledger.db").display().to_string()));
    let test = "a_token_that_can_not_be_read_is_told_by_its_file";
    let Some(done) = as_nobody(&world, test, &["flush"]) else { return };
    assert!([77, 78].contains(&done.code), "{done:#?}");
    done.says(&token.display().to_string()).says("Permission denied");
}

#[test]
fn a_ledger_in_a_folder_that_is_not_there_is_78() {
    let world = ready(CURRENT);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("ledger.db", "nowhere/ledger.db"));
    world.flush().exits(78).says("create the directory").says("nowhere");
    world.agent(&["check"]).exits(78).says("its directory is not there");
    world.agent(&["status"]).exits(78).says("there is no ledger");
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_left_untouched() {
    let world = ready(CURRENT);
    for bytes in [b"my thesis, chapter one".to_vec(), vec![7; 4096]] {
        std::fs::write(world.path("ledger.db"), &bytes).unwrap();
        for command in [&["flush"][..], &["status"], &["check"], &["collect"], &["run"], &["recount"]] {
            world
                .agent(command)
                .exits(78)
                .says("is not a ledger of waldur-usage-agent")
                .says("left untouched");
        }
        assert_eq!(std::fs::read(world.path("ledger.db")).unwrap(), bytes);
    }
    let left = std::fs::read_dir(world.folder.path()).unwrap();
    assert!(left.into_iter().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("wal")));
}

#[test]
fn another_programs_database_is_refused_and_left_untouched() {
    let world = ready(CURRENT);
    let path = world.path("ledger.db");
    let python = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('CREATE TABLE photos (a)')\nc.commit()\n";
    let made = Command::new("python3").args(["-c", python, path.to_str().unwrap()]).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("another_programs_database_is_refused_and_left_untouched", "python3 with sqlite3");
    }
    let bytes = std::fs::read(&path).unwrap();
    for command in [&["flush"][..], &["status"], &["run"]] {
        world.agent(command).exits(78).says("another program's SQLite database").says("left untouched");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_and_left_untouched() {
    let world = ready(CURRENT);
    world.flush().exits(0);
    let path = world.path("ledger.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // The format's number stands at byte 60 of a SQLite file.
    bytes[60..64].copy_from_slice(&9_999_u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    for command in [&["flush"][..], &["status"], &["run"]] {
        world.agent(command).exits(78).says("newer waldur-usage-agent").says("format 9999");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_damaged_ledger_is_refused_and_says_how_to_go_on() {
    let world = ready(CURRENT);
    world.flush().exits(0);
    let path = world.path("ledger.db");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 20_000, "{}", bytes.len());
    for byte in &mut bytes[8_192..16_384] {
        *byte = 0xa5;
    }
    std::fs::write(&path, &bytes).unwrap();
    let every = [
        "flush",
        "collect",
        "check",
        "run",
        "status",
        "recount",
        "export --period 2026-11",
        "explain project-a cpu_hours",
    ];
    let every = every.map(|command| command.split(' ').collect::<Vec<_>>());
    for command in &every {
        let refused = world.agent(command).exits(78).says("is damaged").says(".recover");
        refused.says("put a backup in its place (docs/operations.md, Restore)");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "left as it was");
    assert_eq!(world.agent(&["check"]).all().matches("is damaged").count(), 1, "said once");
    // Machines are told all the same.
    let machine = world.agent(&["status", "--json"]).exits(78).json();
    assert_eq!((&machine["exit"], &machine["daemon"]["running"]), (&json!(78), &json!(false)));
    assert!(machine["ledger_failing"]["words"].as_str().unwrap().contains("is damaged"), "{machine}");
    // Its beginning, which says what it is.
    bytes[..100].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    for command in &every {
        world.agent(command).exits(78);
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "left as it was");
}

#[test]
fn a_typo_in_a_key_is_78_with_its_line_and_the_nearest_key() {
    let world = ready(CURRENT);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("token_file", "tokn_file"));
    for command in [&["flush"][..], &["check"], &["check", "--offline"], &["run"], &["status"]] {
        world
            .agent(command)
            .exits(78)
            .says("line 3")
            .says("unknown key `tokn_file`; did you mean `token_file`?");
    }
    assert_eq!(world.requests_since(0).len(), 0);
}

#[test]
fn a_bad_cron_line_is_78_and_says_why() {
    let world = ready(CURRENT);
    for bad in ["61 * * * *", "every now and then", "* * * *", "0 0 31 13 *"] {
        world.configure(&cpu_hours_of_a());
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        world.write("agent.yaml", &text.replace("@hourly", bad));
        world.agent(&["check", "--offline"]).exits(78).says("source.schedule").says("line 8");
        world.flush().exits(78);
    }
}

#[test]
fn several_mistakes_are_told_at_once() {
    let world = ready(CURRENT);
    world.write(
        "agent.yaml",
        "waldur:\n  url: ftp://x\n  timeout: soon\nledgr: /tmp/x\ncollectors:\n  a:\n    plugin: exek\n  b:\n    \
         plugin: exec\n    schedule: \"61 * * * *\"\n    command: [cat]\n    resource: 12\n    meters:\n      cpu: \
         { reading: a, factor: 1/0, agregate: sum }\n",
    );
    let mut done = world.agent(&["check", "--offline"]).exits(78);
    for words in
        ["line 2", "line 3", "`ledger`", "no plugin `exek`", "line 10", "not a UUID", "factor", "`aggregate`"]
    {
        done = done.says(words);
    }
}

#[test]
fn an_empty_key_is_a_mistake_wherever_it_stands() {
    let world = ready(CURRENT);
    world.configure(&cpu_hours_of_a());
    let right = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.agent(&["check", "--offline"]).exits(0);
    let keys: Vec<&str> =
        right.lines().filter_map(|line| line.split_once(": ").map(|(key, _)| key)).collect();
    for key in keys {
        let begin = format!("{key}: ");
        let emptied = right.lines().map(|line| match line.starts_with(&begin) {
            true => format!("{key}:\n"),
            false => format!("{line}\n"),
        });
        world.write("agent.yaml", &emptied.collect::<String>());
        let done = world.agent(&["check", "--offline"]).exits(78).says("\n1 problem.");
        done.says(&format!("{}: is empty", key.trim()));
        world.flush_once().exits(78);
    }
}

#[test]
fn another_writers_row_is_a_conflict_until_a_person_decides() {
    for api in BOTH {
        let world = ready(api);
        world
            .post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "40.00", "modified_by": 77 }));
        let done = world.flush().exits(65).says("written by another").says("40.00").says("modified by 77");
        done.says("held").says("resolve RESOURCE adopt").says("resolve RESOURCE overwrite");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 40.00"]);
        world.agent(&["parked", "list"]).exits(65).says("conflict").says("resolve RESOURCE overwrite");
        // `parked retry` is not the way.
        world.agent(&["parked", "retry"]).exits(0);
        world.flush().exits(65);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 40.00"]);
        world.agent(&["resolve", A, "hold"]).exits(0).says("stays held");
        world.agent(&["resolve", B, "overwrite"]).exits(0).says("nothing of it is in conflict");
        world.agent(&["resolve", A, "overwrite"]).exits(0).says("40.00 becomes 1.00");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    }
}

#[test]
fn a_row_that_another_writer_changed_after_us_is_not_overwritten_in_silence() {
    let world = ready(CURRENT);
    world.flush().exits(0);
    world.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "5.00", "modified_by": 77 }));
    world.readings(&counter(&["0", "3600", "7200"], &[]));
    world.flush().exits(65).says("Waldur holds 5.00").says("last reported 1.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
}

#[test]
fn an_equal_row_and_a_zero_row_of_another_writer_are_no_conflict() {
    for usage in ["1.00", "0.00"] {
        let world = ready(CURRENT);
        world.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": usage, "modified_by": 77 }));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    }
}

#[test]
fn a_lost_ledger_does_not_erase_a_months_bill() {
    for api in BOTH {
        let world = ready(api);
        world.readings(&counter(&["0", "36000"], &[]));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 10.00"]);
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(world.path(name));
        }
        // The source remembers only what came since.
        world.readings(&[
            reading("cpu_seconds", "counter", "2026-11-10T11:00:00Z", "36000", &[]),
            reading("cpu_seconds", "counter", "2026-11-10T11:30:00Z", "39600", &[]),
        ]);
        world.flush().exits(65).says("Waldur holds 10.00").says("this token's own user");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 10.00"]);
    }
}

#[test]
fn a_limit_is_told_in_the_servers_words_and_stops_only_its_component() {
    let world = World::new(CLASSIC);
    world.configure(&format!(
        "    resource: {A}\n    meters:\n      capped: {{ reading: a }}\n      cpu_hours: {{ reading: b }}\n      \
         storage_gb: {{ reading: c }}\n"
    ));
    let one =
        |name: &str, value: &str| job(name, "1", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", value, &[]);
    world.readings(&[one("a", "60"), one("b", "1"), one("c", "5")]);
    world.flush().exits(0);
    // The server adds 70 to the 60 that it is about to replace, and refuses.
    world.readings(&[one("a", "70"), one("b", "2"), one("c", "6")]);
    world.flush().exits(65).says("Total amount exceeds limit. Total amount: 130.00, limit: 100.");
    assert_eq!(world.rows(A), ["capped 2026-11 60.00", "cpu_hours 2026-11 2.00", "storage_gb 2026-11 6.00"]);
    world.agent(&["parked", "list"]).exits(65).says("limit").says("raise the limit");
    // What did not change under the limit is not repeated: that alone would be refused.
    let reports = world.reports();
    assert!(!reports.last().unwrap().contains("capped"), "{reports:?}");
}

#[test]
fn a_failing_collector_is_69_and_its_last_amounts_stand() {
    let world = ready(CURRENT);
    world.flush().exits(0);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write(
        "agent.yaml",
        &text.replace("command: [cat,", "command: [sh, -c, 'echo broken pipe >&2; exit 3',"),
    );
    world.flush().exits(69).says("collector source").says("3").says("broken pipe");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(69).says("broken pipe");
    world.agent(&["check"]).exits(69).says("broken pipe");
}

#[test]
fn one_bad_line_is_quarantined_and_the_others_count() {
    let world = ready(CURRENT);
    let mut text = std::fs::read_to_string(world.path("readings")).unwrap();
    text += "{\"name\":\"cpu_seconds\",\"kind\":\"counter\",\"valu\":\"1\"}\nnot json\n";
    world.write("readings", &text);
    let collected = world.agent(&["collect"]).exits(0);
    collected.says("quarantined").says("did you mean `value`?").says("line 4");
    world.flush().exits(65).says("2 lines: quarantined");
    let status = world.agent(&["status"]).exits(65);
    let status =
        status.says("Collector source: 2 quarantined in the last run, not billed; the first: line 3:");
    status.says("Correct its source; `status --all` lists them");
    let all = world.agent(&["status", "--all"]).exits(65).says("Quarantined of source, not billed");
    all.says("did you mean `value`?").says("not json");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

#[test]
fn of_several_exit_codes_the_first_of_the_list_is_told() {
    let mut world = World::new(CURRENT);
    // Stuck (a past month), and a failing collector.
    let bad = world.collector("bad", "nowhere", &cpu_hours_of_a());
    let good = world.collector("source", "readings", &cpu_hours_of_a());
    world.write("agent.yaml", &format!("{}collectors:\n{good}{bad}", world.head("")));
    world.readings(&[
        job("cpu_seconds", "1", "2026-10-10T00:00:00Z", "2026-10-10T02:00:00Z", "7200", &[]),
        job("cpu_seconds", "2", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "7200", &[]),
    ]);
    // 69 before 65.
    world.flush().exits(69).says("1 amount: stranded");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    // 77 before 69.
    world.write("token", "wr0ng");
    world.readings(&[job("cpu_seconds", "2", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "10800", &[])]);
    world.flush_once().exits(77);
    world.write("token", TOKEN);
    // 75 before 65.
    world.write("agent.yaml", &format!("{}collectors:\n{good}", world.head("")));
    world.server_goes_away();
    world.flush_once().exits(75).says("stranded");
    // 69 before 75.
    world.write("agent.yaml", &format!("{}collectors:\n{good}{bad}", world.head("")));
    world.flush_once().exits(69);
}

#[test]
fn a_number_that_can_not_be_billed_is_parked_and_not_sent() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters:\n      cpu_hours: {{ reading: a }}\n      gpu_hours: {{ reading: b }}\n"
    ));
    let one = |name: &str, id: &str, value: &str| {
        job(name, id, "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", value, &[])
    };
    world.readings(&[one("a", "1", "1000000000000"), one("b", "1", "3")]);
    world.flush().exits(65).says("1,000,000,000,000").says("factor right?");
    assert_eq!(world.rows(A), ["gpu_hours 2026-11 3.00"]);
    // A negative amount is never posted either.
    world.readings(&[one("a", "1", "-5")]);
    world.flush().exits(65).says("negative");
    assert_eq!(world.rows(A), ["gpu_hours 2026-11 3.00"]);
    // Once its source has corrected it, it goes through by itself.
    world.readings(&[one("a", "1", "5")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00", "gpu_hours 2026-11 3.00"]);
}

/// What a line is about is in its fields, for who filters by them; people read it in the words.
#[test]
fn lines_of_the_log_carry_what_they_are_about() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let bad = json!({ "name": "cpu_seconds", "kind": "delta", "value": "much" });
    let good = job("cpu_seconds", "1", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "5400", &[]);
    world.readings(&[good.clone(), bad.clone()]);
    world.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "40.00", "modified_by": 77 }));
    let daemon = world.daemon(&["--log-format", "json"], &[]);
    daemon.until_it_says("a reading is quarantined");
    daemon.signal("USR1");
    daemon.until_it_says("written by another");
    let log = daemon.log();
    let line = |words: &str| -> serde_json::Value {
        let line = log.lines().find(|line| line.contains(words)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    assert_eq!(line("a reading is quarantined")["fields"]["collector"], "source");
    let fields = &line("written by another")["fields"];
    assert_eq!(
        (&fields["resource"], &fields["component"], &fields["period"]),
        (&json!(A), &json!("cpu_hours"), &json!("2026-11"))
    );
    drop(daemon);
    std::fs::remove_file(world.path("daemon.log")).unwrap();
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("a reading is quarantined");
    assert!(!daemon.log().contains("collector=") && !daemon.log().contains("component="), "{}", daemon.log());
}

/// What Waldur knows no resource for may be another customer's: nobody's explanation has it.
#[test]
fn what_happened_to_nobodys_counter_is_in_no_customers_explanation() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      cpu_hours: {{ reading: \
         cpu_seconds, factor: 1/3600 }}\n"
    ));
    let both = |at: &str, value: &str| {
        ["project-a", "secret-project"]
            .map(|account| reading("cpu_seconds", "counter", at, value, &[("account", account)]))
    };
    world.now("2026-11-10T10:00:00Z");
    world.readings(&both("2026-11-10T10:00:00Z", "7200"));
    world.flush();
    world.now("2026-11-10T11:30:00Z");
    // A fall to less than half is a reset: the new level counts.
    world.readings(&both("2026-11-10T11:30:00Z", "1800"));
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.50"]);
    let explained = world.agent(&["explain", A, "cpu_hours"]).exits(0);
    let explained = explained.says("project-a").says("the counter was reset").says_not("secret-project");
    // When it was, not when its month began.
    let line = explained.out.lines().find(|line| line.contains("goes from")).unwrap();
    assert!(line.contains("11-10 11:30"), "{line}");
    world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).says_not("secret-project");
    world.agent(&["status"]).says("secret-project");
}

#[test]
fn who_asks_for_what_is_not_there_is_told_what_is() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.agent(&["status", "--json"]).exits(78).says("`ledger:` names another path");
    world.flush();
    let carol = world.agent(&["explain", A, "cpu_hours", "--user", "carol"]).exits(64);
    carol.says("no amount of cpu_hours of carol").says("there are shares of alice, bob");
    let early = world.agent(&["explain", A, "cpu_hours", "--period", "2025-01"]).exits(64);
    early.says("in 2025-01; it has some in 2026-11");
    let resolve = world.agent(&["resolve", "adopt"]).exits(64);
    resolve.says("of which resources? Name them").says("--all").says_not("not both");
    world.agent(&["resolve", A, "adopt", "--all"]).exits(64).says("not both");
    world.agent(&["usages", "list", "--page-size", "500"]).exits(64).says("500 is not in 1..=300");
    // Where the variable names the file, usage lines are as without it.
    world.agent(&["explain", A]).exits(64).says("Usage: waldur-usage-agent explain ").says_not("--config");
    world.agent(&["ledger", "init"]).exits(0).says("was there already");
    world.agent(&["agents", "list"]).exits(0).says("is a file, which one agent has for itself");
}
