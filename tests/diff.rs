//! `diff`: the ledger beside what Waldur holds, and beside what another configuration would make of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// Project A: 5 h of alice's; project B: 2 h of bob's. Both are reported.
fn two(api: &str) -> World {
    let world = world(api, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let of_b = on("project-b", "bob", "b", "11-06T00:00", "11-06T02:00", "2");
    jobs(&world, NOON, &[five(), of_b]).exits(0);
    world
}

#[track_caller]
fn fits(done: Done) -> Done {
    for line in done.all().lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    done
}

#[test]
fn what_is_equal_is_summed_up_and_what_differs_is_shown() {
    for api in BOTH {
        let world = two(api);
        let posts = world.posts_since(0).len();
        let done = fits(world.agent(&["diff"])).exits(0);
        assert_eq!(done.out, "2026-11: equal: 2 resources, 4 amounts.\n", "{api}");
        let done = fits(world.agent(&["diff", "--all"])).exits(0);
        done.line_with(&["Project A", "cpu", "(total)", "5.00", "5.00", "+0.00"])
            .line_with(&["bob", "2.00", "2.00"]);

        another_reports(&world, A, "cpu", "7.25");
        // Not ours to make.
        another_reports(&world, B, "disk", "3");
        let done = fits(world.agent(&["diff"])).exits(65);
        let done = done.line_with(&["Project A", "cpu", "(total)", "5.00", "7.25", "-2.25"]);
        let done = done.says_not("Project B").says("2026-11: different: 1 of 2 resources, 1 of 4 amounts.");
        done.says("Rows of Waldur whose component no meter makes: 1.").says_not("alice");
        fits(world.agent(&["diff", "project-b"])).exits(0);
        fits(world.agent(&["diff", "project-a"])).exits(65).says("-2.25");
        fits(world.agent(&["diff", "--period", "2026-10"]))
            .exits(0)
            .says("2026-10: there is nothing to compare.");
        let json = world.agent(&["diff", "--json"]).exits(65).json();
        let differ: Vec<&Value> =
            json["amounts"].as_array().unwrap().iter().filter(|one| one["differs"] == true).collect();
        assert_eq!(differ.len(), 1, "{json}");
        assert_eq!((&differ[0]["ledger"], &differ[0]["waldur"]), (&json!("5.00"), &json!("7.25")));
        assert_eq!((&differ[0]["name"], &differ[0]["user"]), (&json!("Project A"), &Value::Null));
        assert_eq!(json["exit"], 65);
        // Ours were the first posts alone, and it keeps nothing: the next report reads for itself.
        assert_eq!(world.posts_since(0).len(), posts + 2, "{api}");
        assert_eq!(
            world.agent(&["status", "--json"]).json()["statements"][0]["components"][0]["acknowledged"],
            "5.00"
        );
    }
}

#[test]
fn what_the_ledger_has_nothing_of_is_a_difference_and_so_is_a_users_share() {
    let world = two(CURRENT);
    // Project C was never measured, and another reports the component that our meter makes.
    another_reports(&world, C, "cpu", "1");
    let row = world.held(B)["rows"][0]["uuid"].as_str().unwrap().to_owned();
    let body = json!({ "username": "bob", "usage": "1.50" }).to_string();
    let path = format!("/api/marketplace-component-usages/{row}/set_user_usage/");
    let (status, answer) = world.send_as("staff-token", "POST", &path, &body);
    assert!(status < 300, "{answer}");
    let done = fits(world.agent(&["diff"])).exits(65);
    let done = done.line_with(&["Project C", "cpu", "(total)", "-", "1.00", "-1.00"]);
    done.line_with(&["Project B", "cpu", "bob", "2.00", "1.50", "+0.50"])
        .says("different: 2 of 3 resources, 2 of 5");
}

#[test]
fn a_server_that_cannot_be_read_is_no_difference() {
    let mut world = two(CURRENT);
    world.write("token", "wrong-token");
    world.agent(&["diff"]).exits(77);
    world.write("token", TOKEN);
    let page = json!({ "method": "GET", "path": "marketplace-component-usages" });
    another_reports(&world, C, "cpu", "3");
    fits(world.agent(&["diff"])).exits(65).line_with(&["Project C", "-", "3.00", "-3.00"]);
    // One page fails: the resources that the ledger knows are read one by one; another's can't be seen, and that is told.
    world.fault(json!({ "match": page, "action": { "status": 500, "body": "out of order" }, "times": 1 }));
    let done = fits(world.agent(&["diff"])).exits(75).says_not("Project C");
    done.says(&format!(
        "Offering {OFFERING} could not be listed whole: GET component usages: the server answered 500"
    ))
    .says("out of order")
    .says("what Waldur holds of others is not seen.")
    .says("2026-11: equal, as far as it was read: 2 resources, 4 amounts.");
    world.fault(json!({ "match": page, "action": { "status": 500 }, "times": 1 }));
    let json = world.agent(&["diff", "--json"]).exits(75).json();
    assert_eq!((&json["unlisted"][0]["offering"], &json["exit"]), (&json!(OFFERING), &json!(75)), "{json}");
    world.server_goes_away();
    world.agent(&["diff"]).exits(75);
}

/// Who wrote what Waldur holds, and when, is said where it differs.
#[test]
fn who_wrote_what_differs_is_told() {
    for api in BOTH {
        let world = two(api);
        another_reports(&world, A, "cpu", "7.25");
        let json = world.agent(&["diff", "--json"]).exits(65).json();
        let differs = |one: &&Value| one["differs"] == true;
        let one = json["amounts"].as_array().unwrap().iter().find(differs).unwrap().clone();
        let by =
            one["written_by"].as_str().unwrap().trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
        assert!(one["written_at"].as_str().unwrap().starts_with("2026-11-10T1"), "{one}");
        fits(world.agent(&["diff"])).exits(65).says(&format!("written 12:00Z by user {by}"));
        // The ledger keeps it with the row, and status tells it in its sentence and for machines.
        world.now("2026-11-10T14:00:00Z");
        world.flush().exits(65);
        let sentence = format!(
            "Project A, 2026-11, held: Waldur holds cpu 7.25 (written 12:00Z by user {by}); the ledger has 5.00."
        );
        world.agent(&["status"]).exits(65).says(&sentence).says("`resolve project-a adopt | overwrite`");
        let status = world.agent(&["status", "--json", "project-a"]).json();
        let cpu = &status["statements"][0]["components"][0];
        assert_eq!(
            (&cpu["written_by"], &cpu["written_at"]),
            (&one["written_by"], &one["written_at"]),
            "{cpu}"
        );
    }
}

/// Each component with its own numbers, and with the hand that wrote it where there are several.
#[test]
fn two_hands_in_one_resource_are_told_apart() {
    let world = world(CURRENT, NOON);
    let meters = format!("{CPU}\n      cpu2: {{ reading: sec, factor: 1/7200 }}");
    configure(&world, "late: hold", "", &[("source", keys(&meters))]);
    for (component, usage, by) in [("cpu", "32", 99), ("cpu2", "3", 98)] {
        world.post(
            "rows",
            json!({ "resource": A, "type": component, "usage": usage, "billing_period": "2026-11-01", "modified_by": by }),
        );
    }
    jobs(&world, NOON, &[five()]).exits(65);
    world.agent(&["status"]).exits(65).says(
        "Project A, 2026-11, held: Waldur holds cpu 32.00 (written 12:00Z by user 99), cpu2 3.00 (written 12:00Z by user 98); \
         the ledger has 5.00, 2.50.",
    );
}

/// What an offering that only the new file names has is asked of Waldur; why it does not tell is what is wrong.
#[test]
fn another_configuration_that_can_not_be_looked_up_names_the_cause() {
    let mut world = two(CURRENT);
    let old = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let new = world.path("new.yaml");
    let new = new.to_str().unwrap();
    let other = "91ab0000-0000-4000-8000-00000000ffff";
    std::fs::write(new, old.replace(OFFERING, other)).unwrap();
    let words = format!("The resources of offering {other} are not known: ");
    world.fault(json!({ "match": { "path": "marketplace-provider-resources" }, "action": { "status": 503 }, "times": 3 }));
    let done = fits(world.agent(&["diff", "--config", new])).exits(75);
    done.says(&words).says("503");
    world.no_faults();
    world.write("token", "wrong-token");
    fits(world.agent(&["diff", "--config", new])).exits(77).says(&words).says("the token was refused");
    world.write("token", TOKEN);
    world.server_goes_away();
    fits(world.agent(&["diff", "--config", new])).exits(75).says(&words);
}

/// 78: the file that is named has mistakes or is not there, or there is no ledger to try it on. Each is named, and nothing is
/// asked of Waldur.
#[test]
fn another_configuration_or_a_ledger_that_can_not_be_used_is_78() {
    let world = two(CURRENT);
    let old = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let (new, mark) = (world.path("new.yaml"), world.mark());
    let new = new.to_str().unwrap();
    fits(world.agent(&["diff", "--config", new])).exits(78).says(new).says("No such file");
    std::fs::write(new, old.replace("1/3600", "1/0").replace("resource:", "resourc:")).unwrap();
    let done = fits(world.agent(&["diff", "--config", new])).exits(78).says(new);
    done.says("1/0").says("did you mean `resource`").says("line ");
    std::fs::write(new, "waldur: [").unwrap();
    fits(world.agent(&["diff", "--config", new])).exits(78).says(new);
    std::fs::write(new, old.replace("1/3600", "1/1800")).unwrap();
    let ledger = world.path("ledger.db");
    std::fs::rename(&ledger, world.path("elsewhere.db")).unwrap();
    fits(world.agent(&["diff", "--config", new])).exits(78).says("there is no ledger at");
    std::fs::write(&ledger, "this is no ledger").unwrap();
    fits(world.agent(&["diff", "--config", new])).exits(78).says("is not a ledger of");
    assert!(world.requests_since(mark).is_empty());
}

#[test]
fn another_configuration_is_tried_on_a_copy_and_shown_by_amount() {
    for api in BOTH {
        let world = two(api);
        let old = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let (ledger, mark) = (std::fs::read(world.path("ledger.db")).unwrap(), world.mark());
        let new = world.path("new.yaml");
        let new = new.to_str().unwrap();
        std::fs::write(new, old.replace("1/3600", "1/1800")).unwrap();
        let done = fits(world.agent(&["diff", "--config", new])).exits(65);
        let done = done.line_with(&["Project A", "cpu", "(total)", "5.00", "10.00", "+5.00"]);
        let done = done.line_with(&["Project B", "cpu", "bob", "2.00", "4.00", "+2.00"]);
        done.says("2026-11: 4 of 4 amounts would change.");
        // The same file; a file with a mistake; one resource of two.
        let own = world.path("agent.yaml");
        let own = own.to_str().unwrap();
        fits(world.agent(&["diff", "--config", own])).exits(0).says("2026-11: nothing changes.");
        fits(world.agent(&["-c", own, "diff", "project-a", "--config", new])).exits(65).says_not("Project B");
        world.agent(&["diff", "-c", own]).exits(0).says("equal: 2 resources");
        world.agent(&["--config", own, "diff"]).exits(0).says("equal: 2 resources");
        // Another component: what Waldur holds would stay on the bill beside it, so both are held, and told why.
        std::fs::write(new, old.replace("cpu: {", "cpu2: {")).unwrap();
        let done = fits(world.agent(&["diff", "--config", new])).exits(65);
        let done = done.line_with(&["Project A", "cpu", "(total)", "5.00", "0.00", "-5.00"]);
        done.line_with(&["Project A", "cpu2", "(total)", "0.00", "5.00", "+5.00"]).says("held: ");
        let json = world.agent(&["diff", "--config", new, "--json"]).exits(65).json();
        let first = &json["changes"][0];
        assert_eq!((&first["now"], &first["then"]), (&json!("5.00"), &json!("0.00")));
        std::fs::write(new, old.replace("1/3600", "1/0")).unwrap();
        world.agent(&["diff", "--config", new]).exits(78);
        // Nothing was recorded, and nothing sent.
        assert!(world.posts_since(mark).is_empty());
        assert_eq!(std::fs::read(world.path("ledger.db")).unwrap(), ledger, "{api}");
        jobs(
            &world,
            "2026-11-10T13:00:00Z",
            &[five(), on("project-b", "bob", "b", "11-06T00:00", "11-06T02:00", "2")],
        )
        .exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}
