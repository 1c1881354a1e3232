//! The `http` collector through the real binary: each recipe in config/ against answers as its API gives them, with the
//! readings, and for some the amounts, worked out by hand; and each way to fail with what the operator reads.
//!
//! The answers are written after the APIs' own documentation and sources: Ceph's rgw_usage.cc, Harbor's quota list,
//! Nova's api samples, Nextcloud's users/details, LiteLLM's daily activity.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]
#![allow(unreachable_pub, reason = "modules of one test program")]

#[path = "../agent/mod.rs"]
mod agent;
mod failures;
mod server;
mod tls;

use std::path::Path;

use agent::*;
use serde_json::Value;
use server::*;

/// A recipe of config/ in a world of its own: its addresses are those of the server, its files those of the world.
fn recipe(name: &str, host: &str, server: &Server) -> World {
    let world = World::new(CURRENT);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    text = text.replace(&format!("https://{host}"), &format!("http://{}", server.address));
    text = text.replace("https://waldur.example.com", &world.url());
    text = text.replace("91ab1c7a-9d3b-4c60-a1b2-c3d4e5f60718", OFFERING);
    let folder = world.folder.path().display().to_string();
    text = text.replace("/etc/waldur-usage-agent", &folder);
    text += &format!("ledger: {folder}/ledger.db\n");
    world.write("agent.yaml", &text);
    world
}

/// The one collector of `collect --json`.
fn collect(world: &World) -> Value {
    let answer = world.agent(&["collect", "--json"]).exits(0).json();
    let collector = answer["collectors"][0].clone();
    assert_eq!(collector["outcome"], "ok", "{collector:#}");
    assert_eq!(collector["quarantined"], serde_json::json!([]), "{collector:#}");
    collector
}

/// `name kind value unit start..end labels` of each reading, sorted; of an instant only the instant.
fn readings(collector: &Value) -> Vec<String> {
    let text = |reading: &Value| {
        let part = |key: &str| reading[key].as_str().unwrap_or("-").to_owned();
        let time = match part("start") == part("end") {
            true => part("start"),
            false => format!("{}..{}", part("start"), part("end")),
        };
        let labels: Vec<_> = reading["labels"].as_object().unwrap().iter().collect();
        let labels: Vec<_> =
            labels.into_iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        let (name, kind, value, unit) = (part("name"), part("kind"), part("value"), part("unit"));
        format!("{name} {kind} {value} {unit} {time} {}", labels.join(" "))
    };
    let mut readings: Vec<_> = collector["readings"].as_array().unwrap().iter().map(text).collect();
    readings.sort();
    readings
}

#[test]
fn harbor_quotas_come_page_by_page() {
    let quota = |id: u32, project: &str, used: &str| {
        format!(
            r#"{{"id":{id},"ref":{{"id":{id},"name":"{project}","owner_name":"admin"}},
                "creation_time":"2025-11-02T09:12:55.117Z","update_time":"2026-11-10T11:58:20.402Z",
                "hard":{{"storage":-1}},"used":{{"storage":{used}}}}}"#
        )
    };
    let server = Server::start(move |heard| {
        let total = "X-Total-Count: 3\r\n";
        match heard.line.as_str() {
            "GET /api/v2.0/quotas?reference=project&page_size=100" => (
                "200 OK",
                // Harbor behind a proxy names itself without scheme and host.
                format!(
                    "{total}Link: </api/v2.0/quotas?page=2&page_size=100&reference=project>; rel=\"next\"\r\n"
                ),
                format!("[{},{}]", quota(1, "project-a", "1099511627776"), quota(2, "library", "0")),
            ),
            "GET /api/v2.0/quotas?page=2&page_size=100&reference=project" => (
                "200 OK",
                format!(
                    "{total}Link: </api/v2.0/quotas?page=1&page_size=100&reference=project>; rel=\"prev\"\r\n"
                ),
                // 2^53 + 1: a float would make it even.
                format!("[{}]", quota(3, "project-b", "9007199254740993")),
            ),
            other => panic!("{other}"),
        }
    });
    let world = recipe("http-harbor.yaml", "harbor.example.com", &server);
    world.write("harbor", "Secret12345\n");
    assert_eq!(
        readings(&collect(&world)),
        [
            "storage_bytes gauge 0 B 2026-11-10T12:00:00Z project=library",
            "storage_bytes gauge 1099511627776 B 2026-11-10T12:00:00Z project=project-a",
            "storage_bytes gauge 9007199254740993 B 2026-11-10T12:00:00Z project=project-b",
        ]
    );
    // printf 'robot$usage:Secret12345' | base64
    assert!(
        server.heard()[1].has("authorization: Basic cm9ib3QkdXNhZ2U6U2VjcmV0MTIzNDU="),
        "{:?}",
        server.heard()
    );
}

#[test]
fn ceph_rgw_traffic_comes_by_the_hour() {
    let used = |user: &str, sent: &str, ops: &str| {
        format!(
            r#"{{"user":"{user}","categories":[{{"category":"get_obj","bytes_sent":{sent},"bytes_received":0,
                "ops":{ops},"successful_ops":{ops}}}],"total":{{"bytes_sent":{sent},"bytes_received":0,"ops":{ops},
                "successful_ops":{ops}}}}}"#
        )
    };
    let server = Server::start(move |heard| {
        let begins = |hour: &str| heard.line.contains(&format!("&start=2026-11-{hour}%3A00%3A00"));
        if heard.line.starts_with("GET /admin/bucket?") {
            return json(
                r#"[{"bucket":"data","num_shards":11,"tenant":"","owner":"project-a",
                     "usage":{"rgw.main":{"size":1073741800,"size_actual":1073741824,"size_utilized":1073741800,
                     "size_kb":1048576,"size_kb_actual":1048576,"size_kb_utilized":1048576,"num_objects":7}},
                     "bucket_quota":{"enabled":false,"max_size":-1}},
                    {"bucket":"empty","num_shards":11,"tenant":"","owner":"project-a","usage":{}}]"#,
            );
        }
        let summary = match () {
            () if begins("05%2010") => used("project-a", "1500000000", "250"),
            () if begins("10%2010") => {
                format!("{},{}", used("project-a", "2500000001", "50"), used("admin", "17", "1"))
            }
            () => String::new(),
        };
        json(format!(r#"{{"summary":[{summary}]}}"#))
    });
    let world = recipe("http-ceph-rgw.yaml", "rgw.example.com", &server);
    world.write("rgw", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n");
    assert_eq!(
        readings(&collect(&world)),
        [
            "requests delta 1 - 2026-11-10T10:00:00Z..2026-11-10T11:00:00Z user=admin",
            "requests delta 250 - 2026-11-05T10:00:00Z..2026-11-05T11:00:00Z user=project-a",
            "requests delta 50 - 2026-11-10T10:00:00Z..2026-11-10T11:00:00Z user=project-a",
            "sent_bytes delta 1500000000 B 2026-11-05T10:00:00Z..2026-11-05T11:00:00Z user=project-a",
            "sent_bytes delta 17 B 2026-11-10T10:00:00Z..2026-11-10T11:00:00Z user=admin",
            "sent_bytes delta 2500000001 B 2026-11-10T10:00:00Z..2026-11-10T11:00:00Z user=project-a",
            "stored_bytes gauge 0 B 2026-11-10T12:00:00Z bucket=empty user=project-a",
            "stored_bytes gauge 1073741824 B 2026-11-10T12:00:00Z bucket=data user=project-a",
        ]
    );
    // 9 days and 12 hours, and the buckets.
    let lines = server.lines();
    assert_eq!(lines.len(), 228 + 1);
    assert_eq!(
        lines[0],
        "GET /admin/usage?end=2026-11-01%2001%3A00%3A00&format=json&show-entries=False&show-summary=True&\
         start=2026-11-01%2000%3A00%3A00"
    );
    let signed = server.heard()[0].head.to_ascii_lowercase();
    assert!(signed.contains("authorization: aws4-hmac-sha256 credential=0555b35654ad1656d804/"), "{signed}");
    assert!(
        signed.contains("/default/s3/aws4_request, signedheaders=host;x-amz-content-sha256;x-amz-date"),
        "{signed}"
    );
    // What is over is not asked for again, but for the overlap of two hours; what is said again counts once.
    world.agent_clock("2026-11-10T12:30:00Z");
    let again = lines_of_another_run(&world, &server);
    let starts: Vec<_> = again.iter().filter_map(|line| line.split_once("&start=2026-11-10%20")).collect();
    let starts: Vec<_> = starts.into_iter().map(|(_, start)| start).collect();
    assert_eq!(starts, ["10%3A00%3A00", "11%3A00%3A00", "12%3A00%3A00"]);
    world.agent(&["recount"]).exits(0);
}

/// What is asked in another run.
fn lines_of_another_run(world: &World, server: &Server) -> Vec<String> {
    let before = server.lines().len();
    collect(world);
    server.lines().split_off(before)
}

#[test]
fn an_openstack_login_is_made_and_the_hours_reach_the_sandbox() {
    let server = Server::start(|heard| match heard.line.as_str() {
        "POST /v3/auth/tokens" => (
            "201 Created",
            "X-Subject-Token: gAAAAABk-token\r\n".to_owned(),
            r#"{"token":{"methods":["application_credential"],"expires_at":"2026-11-10T13:00:00.000000Z"}}"#
                .to_owned(),
        ),
        // Python's floats, as Nova prints them.
        line if line.contains("start=2026-11-09T00%3A00%3A00&end=2026-11-10T00%3A00%3A00") => json(
            r#"{"tenant_usages":[{"tenant_id":"project-a","total_local_gb_usage":240.0,
                "total_vcpus_usage":47.99999999999997,"total_memory_mb_usage":98304.0,"total_hours":24.0,
                "start":"2026-11-09T00:00:00.000000","stop":"2026-11-10T00:00:00.000000"}]}"#,
        ),
        line if line.contains("start=2026-11-10T00%3A00%3A00&end=2026-11-10T12%3A00%3A00") => json(
            r#"{"tenant_usages":[{"tenant_id":"project-a","total_local_gb_usage":1.0,"total_vcpus_usage":1.2605,
                "total_memory_mb_usage":512.0,"total_hours":1.0,"start":"2026-11-10T00:00:00.000000",
                "stop":"2026-11-10T12:00:00.000000"}]}"#,
        ),
        line if line.contains("start=2026-11-10T00%3A00%3A00&end=2026-11-10T12%3A30%3A00") => json(
            r#"{"tenant_usages":[{"tenant_id":"project-a","total_local_gb_usage":1.0,"total_vcpus_usage":2.2605,
                "total_memory_mb_usage":512.0,"total_hours":1.5,"start":"2026-11-10T00:00:00.000000",
                "stop":"2026-11-10T12:30:00.000000"}]}"#,
        ),
        _ => json(r#"{"tenant_usages":[]}"#),
    });
    let world = recipe("http-openstack.yaml", "nova.example.com:8774", &server);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let keystone = format!("http://{}", server.address);
    world.write("agent.yaml", &text.replace("https://keystone.example.com:5000", &keystone));
    world.write("openstack", "s\"3cret\n");
    world.flush().exits(0);
    // 48 - 3e-14 to 9 digits is 48; 48 + 1.2605 = 49.2605. (98304 + 512) / 1024 = 96.5.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 49.26", "ram_gb_hours 2026-11 96.50"]);
    let heard = server.heard();
    let login: Value = serde_json::from_str(&heard[0].body).unwrap();
    let credential = &login["auth"]["identity"]["application_credential"];
    assert_eq!(credential["secret"], "s\"3cret");
    // The ten days since the first, the last of them until now.
    assert_eq!(heard.len(), 1 + 10);
    assert!(heard[1].has("x-auth-token: gAAAAABk-token"), "{heard:?}");
    assert!(
        heard[1].line.starts_with("GET /v2.1/os-simple-tenant-usage?start=2026-11-01T00%3A00%3A00&"),
        "{heard:?}"
    );
    // The day goes on: the same reading, grown.
    world.now("2026-11-10T12:30:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 50.26", "ram_gb_hours 2026-11 96.50"]);
    let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    assert_eq!(explained["amount"], "50.2605", "{explained:#}");
    world.agent(&["recount"]).exits(0);
}

#[test]
fn nextcloud_users_are_read_to_the_last_page() {
    let user = |name: &str, used: &str| {
        format!(
            r#""{name}":{{"enabled":true,"storageLocation":"\/var\/www\/html\/data\/{name}","id":"{name}",
                "lastLogin":1793872800000,"backend":"Database","subadmin":[],"quota":{{"free":41555959808,
                "used":{used},"total":41579046914,"relative":0.06,"quota":-3}},"email":null,"displayname":"{name}",
                "groups":["staff"],"language":"en","locale":""}}"#
        )
    };
    let page = |users: String| {
        json(format!(
            r#"{{"ocs":{{"meta":{{"status":"ok","statuscode":200,"message":"OK"}},"data":{{"users":{users}}}}}}}"#
        ))
    };
    let server = Server::start(move |heard| match heard.line.as_str() {
        "GET /ocs/v2.php/cloud/users/details?format=json&limit=200&offset=0" => {
            page(format!("{{{},{}}}", user("alice", "23087106"), user("bob", "0")))
        }
        "GET /ocs/v2.php/cloud/users/details?format=json&limit=200&offset=200" => {
            page(format!("{{{}}}", user("carol", "1073741824")))
        }
        // PHP writes an empty object as a list.
        "GET /ocs/v2.php/cloud/users/details?format=json&limit=200&offset=400" => page("[]".to_owned()),
        other => panic!("{other}"),
    });
    let world = recipe("http-nextcloud.yaml", "cloud.example.com", &server);
    world.write("nextcloud", "abcde-fghij\n");
    assert_eq!(
        readings(&collect(&world)),
        [
            "stored_bytes gauge 0 B 2026-11-10T12:00:00Z user=bob",
            "stored_bytes gauge 1073741824 B 2026-11-10T12:00:00Z user=carol",
            "stored_bytes gauge 23087106 B 2026-11-10T12:00:00Z user=alice",
        ]
    );
    assert!(server.heard()[0].has("ocs-apirequest: true"));
}

#[test]
fn litellm_adds_up_what_is_spread_over_pages() {
    let day = |date: &str, teams: &str, more: bool| {
        json(format!(
            r#"{{"results":[{{"date":"{date}","metrics":{{"spend":1.5,"prompt_tokens":1,"completion_tokens":1,
                "total_tokens":2,"api_requests":2}},"breakdown":{{"models":{{}},"providers":{{}},"api_keys":{{}},
                "entities":{{{teams}}}}}}}],"metadata":{{"total_spend":1.5,"page":1,"total_pages":2,"has_more":{more}}}}}"#
        ))
    };
    let team = |name: &str, spend: &str, prompt: u32, completion: u32| {
        format!(
            r#""{name}":{{"metrics":{{"spend":{spend},"prompt_tokens":{prompt},"completion_tokens":{completion},
                "total_tokens":0,"successful_requests":1,"failed_requests":0,"api_requests":1}},
                "metadata":{{"team_alias":"{name}"}},"api_key_breakdown":{{}}}}"#
        )
    };
    let server = Server::start(move |heard| {
        let asks = |date: &str, page: u32| {
            heard.line
                == format!(
                    "GET /team/daily/activity?start_date={date}&end_date={date}&page={page}&page_size=1000"
                )
        };
        match () {
            () if asks("2026-11-09", 1) => {
                let second = team("project-b", "1e-05", 10, 20);
                let first = team("project-a", "0.00123", 1_500_000, 250_000);
                day("2026-11-09", &format!("{first},{second}"), true)
            }
            () if asks("2026-11-09", 2) => {
                day("2026-11-09", &team("project-a", "3.4e-05", 500_000, 1), false)
            }
            // Nothing of that day.
            () => json(
                r#"{"results":[],"metadata":{"total_spend":0.0,"page":1,"total_pages":0,"has_more":false}}"#,
            ),
        }
    });
    let world = recipe("http-litellm.yaml", "litellm.example.com", &server);
    world.write("litellm", "sk-1234\n");
    let day = "2026-11-09T00:00:00Z..2026-11-10T00:00:00Z";
    assert_eq!(
        readings(&collect(&world)),
        [
            format!("completion_tokens delta 20 - {day} team=project-b"),
            format!("completion_tokens delta 250001 - {day} team=project-a"),
            format!("prompt_tokens delta 10 - {day} team=project-b"),
            format!("prompt_tokens delta 2000000 - {day} team=project-a"),
            // 0.00123 + 0.000034
            format!("spend delta 0.00001 USD {day} team=project-b"),
            format!("spend delta 0.001264 USD {day} team=project-a"),
        ]
    );
    assert!(server.heard()[0].has("authorization: Bearer sk-1234"));
}

/// A collector `api` of the resource A that asks the server, with these keys of its request and these meters.
fn of_a(server: &Server, request: &str, meters: &str) -> World {
    let world = World::new(CURRENT);
    let keys = format!(
        "collectors:\n  api:\n    plugin: http\n    schedule: \"@hourly\"\n    url: http://{}\n    requests:\n      \
         rows:\n{request}    resource: {A}\n    meters: {{ {meters} }}\n",
        server.address
    );
    world.write("agent.yaml", &(world.head("") + &keys));
    world
}

#[test]
fn no_digit_is_lost_on_the_way_to_the_amount() {
    // As floats 0.1 + 0.2 is 0.30000000000000004, and 2^53 + 1 is 2^53.
    let server = Server::start(|_| {
        json(
            r#"{"rows":[{"t":1794300000,"v":0.1},{"t":1794300001,"v":"0.2"},{"t":1794300002,"v":9007199254740993},
                         {"t":1794300003,"v":123456789012.123456789012}]}"#,
        )
    });
    let request = "        each: { row: answer.rows }\n        at: row.t\n        readings:\n          \
                   used: { kind: delta, value: row.v }\n";
    let world = of_a(&server, request, "cpu_hours: { reading: used, factor: 1/1000000 }");
    world.flush().exits(0);
    let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    // 0.1 + 0.2 + 9007199254740993 + 123456789012.123456789012 = 9007322711530005.423456789012
    assert_eq!(explained["amount"], "9007322711.530005423456789012", "{explained:#}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 9007322711.53"]);
}

#[test]
fn what_goes_on_is_one_reading_that_grows() {
    let server = Server::start(|heard| {
        let body: Value = serde_json::from_str(&heard.body).unwrap();
        assert_eq!(body["filter"]["from"], "1793491200");
        assert_eq!((&body["limit"], &body["text"]), (&serde_json::json!(10), &serde_json::json!("{x}")));
        let used = match body["filter"]["to"].as_str().unwrap() {
            "2026-11-10T12:00:00Z" => 3,
            "2026-11-10T12:30:00Z" => 5,
            other => panic!("{other}"),
        };
        json(format!(r#"{{"rows":[{{"day":"2026-11-09","v":2}},{{"day":"2026-11-10","v":{used}}}]}}"#))
    });
    let request = "        path: query\n        body: { filter: { from: \"{start:unix}\", to: \"{end}\" }, limit: 10, text: \
                   \"{{x}}\" }\n        each: { row: answer.rows }\n        start: row.day\n        lasts: 1d\n        \
                   readings:\n          used: { kind: delta, value: row.v }\n";
    let world = of_a(&server, request, "cpu_hours: { reading: used }");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
    world.now("2026-11-10T12:30:00Z");
    let collector = collect(&world);
    assert_eq!((&collector["new"], &collector["corrected"]), (&serde_json::json!(0), &serde_json::json!(1)));
    assert_eq!(
        readings(&collector),
        [
            "used delta 2 - 2026-11-09T00:00:00Z..2026-11-10T00:00:00Z ",
            "used delta 5 - 2026-11-10T00:00:00Z..2026-11-10T12:30:00Z ",
        ]
    );
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 7.00"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn an_outage_of_the_agent_is_made_up_for_and_nothing_counts_twice() {
    // 24 an hour and day.
    let server = Server::start(|heard| {
        let day = |key: &str| {
            let at = heard.line.find(key).unwrap() + key.len();
            heard.line[at..at + 10].parse::<i64>().unwrap()
        };
        json(format!(r#"{{"used":{}}}"#, (day("from=") - day("to=")).abs() / 150))
    });
    let request = "        query: { from: \"{start:unix}\", to: \"{end:unix}\" }\n        step: 1d\n        \
                   readings:\n          used: { kind: delta, value: answer.used }\n";
    let world = of_a(&server, request, "cpu_hours: { reading: used }");
    // One unit every 150 s is 24 an hour: 9.5 days are 9.5 x 24 x 24.
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5472.00"]);
    let before = server.lines().len();
    world.now("2026-11-14T06:00:00Z");
    world.flush().exits(0);
    // 13.25 days.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 7632.00"]);
    // The day before the one that was not over, for what was written late, and on to the 14th.
    assert_eq!(server.lines().len() - before, 6);
    world.agent(&["recount"]).exits(0);
}
