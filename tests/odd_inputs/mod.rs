//! Small inputs from the field, made after trouble that people reported in public (each says where), with their right values. The
//! binary reads them from doubles of their sources, and what the sandbox then holds is compared.

use super::*;

/// All of it is project A's.
const OF_A: &str = "    resource: 5e2f0000-0000-4000-8000-000000000001\n";

// Pages of metrics.

const TYPE: &str = "# TYPE app_units_total counter\n";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What project A is billed of a counter on a page that is read each five minutes; `more`: keys of the collector.
fn of_pages(pages: &[String], kind: &'static str, more: &str) -> Vec<String> {
    let page = Arc::new(Mutex::new(String::new()));
    let shown = page.clone();
    let server = server::Server::start(move |_| {
        ("200 OK", format!("Content-Type: {kind}\r\n"), shown.lock().unwrap().clone())
    });
    let world = world(CURRENT, NOON);
    let text = format!(
        "  app:\n    plugin: openmetrics\n    schedule: every 5m\n    url: http://{}/metrics\n    metrics: [app_units_total]\n{more}\
         {OF_A}    meters:\n      cpu: {{ reading: app_units_total }}\n",
        server.address
    );
    collectors(&world, &text);
    for (minute, text) in (0..).step_by(5).zip(pages) {
        page.lock().unwrap().clone_from(text);
        look(&world, minute);
    }
    world.agent(&["recount"]).exits(0);
    world.rows(A)
}

#[test]
fn a_page_with_exemplars_and_odd_blanks_is_read() {
    let head = "# TYPE app_units counter\n";
    let pages = [
        format!(
            "{head}app_units_total{{user=\"alice\"}} 100 # {{trace_id=\"a\"}} 0.5 1794312000.789\n# EOF\n"
        ),
        format!("{head}app_units_total{{user=\"alice\",}} 130 # {{}} 1\n# EOF\n"),
    ];
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
    assert_eq!(of_pages(&pages, kind, ""), ["cpu 2026-11 30.00"]);
}

/// Ceph's manager (telegraf#13459), couchbase (telegraf#16690).
#[test]
fn a_type_that_is_repeated_before_each_series_is_read() {
    let page = |alice: u32, bob: u32| {
        [("alice", alice), ("bob", bob)]
            .map(|(user, value)| {
                format!("# HELP app_units_total Units\n{TYPE}app_units_total{{user=\"{user}\"}} {value}\n")
            })
            .concat()
    };
    assert_eq!(of_pages(&[page(100, 7), page(130, 9)], TEXT, ""), ["cpu 2026-11 32.00"]);
}

/// prometheus-prefect-exporter#137, radosgw_usage_exporter#6: which is meant can't be known. Taking the first bills 5,030.
#[test]
fn a_series_that_stands_twice_on_a_page_is_not_billed() {
    let page = |one: u32, other: u32| {
        format!("{TYPE}app_units_total{{user=\"alice\"}} {one}\napp_units_total{{user=\"alice\"}} {other}\n")
    };
    assert_eq!(of_pages(&[page(100, 5000), page(5010, 110), page(120, 5020)], TEXT, ""), [""; 0]);
}

/// Prometheus 3 (node_exporter#3700).
#[test]
fn names_in_quotes_are_names() {
    for line in
        ["{\"app_units_total\",user=\"alice\"}", "app_units_total{\"service.name\"=\"x\",user=\"alice\"}"]
    {
        let page = |value: u32| format!("{TYPE}{line} {value}\n");
        assert_eq!(of_pages(&[page(100), page(130)], TEXT, ""), ["cpu 2026-11 30.00"], "{line}");
    }
}

/// node_exporter#1090, #1903: a hundredth lower, and the process is the same. 3.70 were counted, not 80,130.
#[test]
fn a_dip_within_a_life_that_the_page_tells_is_no_restart() {
    let pages = ["80126.30", "80126.29", "80130"].map(|value| {
        format!(
            "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1793800000\n{TYPE}app_units_total {value}\n"
        )
    });
    let more = "    epoch: process_start_time_seconds\n";
    assert_eq!(of_pages(&pages, TEXT, more), ["cpu 2026-11 3.70"]);
}

// Answers of APIs.

/// What projects A and B are billed of a level that an API lists; `paging`: a key of the request.
fn of_answers(
    answer: impl Fn(&server::Heard) -> (&'static str, String, Vec<u8>) + Send + 'static,
    paging: &str,
    factor: &str,
) -> [Vec<String>; 2] {
    let server = server::Server::of_bytes(answer);
    let world = world(CURRENT, NOON);
    let text = format!(
        "  api:\n    plugin: http\n    schedule: every 5m\n    url: http://{}\n    requests:\n      q:\n        path: list\n{paging}        \
         each: {{ row: answer }}\n        labels: {{ project: row.p }}\n        \
         readings: {{ n: {{ kind: gauge, value: row.n }} }}\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      \
         disk: {{ reading: n, aggregate: last, factor: {factor} }}\n",
        server.address
    );
    collectors(&world, &text);
    look(&world, 0);
    [world.rows(A), world.rows(B)]
}

const ONE_AND_TWO: [[&str; 1]; 2] = [["disk 2026-11 1.00"], ["disk 2026-11 2.00"]];

/// woocommerce/wc-api-python#40, serde-rs/json#495, jiter#120.
#[test]
fn a_byte_order_mark_and_half_an_emoji_that_nobody_reads_cost_nothing() {
    for body in [
        "\u{feff}[{\"p\":\"project-a\",\"n\":1},{\"p\":\"project-b\",\"n\":2}]",
        r#"[{"p":"project-a","n":1,"d":"x\ud83d"},{"p":"project-b","n":2,"d":"y"}]"#,
    ] {
        let rows = of_answers(move |_| ("200 OK", String::new(), body.as_bytes().to_vec()), "", "1");
        assert_eq!(rows, ONE_AND_TWO, "{body}");
    }
}

/// Okta's, PowerShell#5257.
#[test]
fn the_next_page_is_found_in_the_second_of_two_link_headers() {
    let answer = |heard: &server::Heard| {
        if heard.line.contains("page=2") {
            return ("200 OK", String::new(), br#"[{"p":"project-b","n":2}]"#.to_vec());
        }
        let host =
            heard.head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
        let url = format!("http://{}/list", host.unwrap());
        let links = format!("Link: <{url}?page=1>; rel=\"self\"\r\nLink: <{url}?page=2>; rel=\"next\"\r\n");
        ("200 OK", links, br#"[{"p":"project-a","n":1}]"#.to_vec())
    };
    assert_eq!(of_answers(answer, "        paging: { link: true }\n", "1"), ONE_AND_TWO);
}

#[test]
fn numbers_with_exponents_are_numbers_as_texts_too() {
    let body = r#"[{"p":"project-a","n":1.2e-05},{"p":"project-b","n":"1.5E-5"},{"p":null,"n":1},{"n":3},{"p":"project-b2","n":null}]"#;
    let rows = of_answers(move |_| ("200 OK", String::new(), body.as_bytes().to_vec()), "", "1000000");
    assert_eq!(rows, [["disk 2026-11 12.00"], ["disk 2026-11 15.00"]]);
}

// Jobs of SLURM.

/// Noon of the 10th.
const NOW: i64 = 1_794_312_000;
const DAY: i64 = 86_400;

/// The collector of jobs, with a sacct that heeds what it is asked.
fn of_jobs(world: &World, waldur: &str, more: &str) {
    slurm(world);
    program(world, "sacct", include_str!("../collectors_slurm/honest.sh"));
    let text = format!(
        "collectors:\n  source:\n    plugin: slurm\n    schedule: \"*/10 * * * *\"\n    programs: {}\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
         cpu: {{ reading: cpu_seconds, factor: 1/3600 }}\n      cpu2: {{ reading: gpu_seconds, factor: 1/3600 }}\n{more}",
        world.path("bin").display()
    );
    world.write("agent.yaml", &(world.head(waldur) + &text));
}

/// A job of these instants before noon of the 10th, in seconds; `end`: None while it runs.
fn of_job(number: u32, account: &str, start: i64, end: Option<i64>, elapsed: i64, tres: &str) -> String {
    let (start, state) = (NOW + start, if end.is_some() { "COMPLETED" } else { "RUNNING" });
    let end = end.map_or_else(|| "Unknown".to_owned(), |end| (NOW + end).to_string());
    format!("{number}|{start}|{start}|{end}|{elapsed}|{state}|{account}|alice|main|normal|alpha||{tres}\n")
}

fn list(world: &World, jobs: &[String]) {
    world.write("answer", &(HEADER.to_owned() + &jobs.concat()));
}

#[test]
fn what_no_meter_wants_of_a_jobs_resources_costs_it_nothing() {
    for (tres, right, more) in [
        // slurmdb prints gres named gpumem with a unit.
        (
            "billing=4,cpu=4,gres/gpu=1,gres/gpumem=20480M,mem=16G,node=1",
            ["cpu 2026-11 4.00", "cpu2 2026-11 1.00"].as_slice(),
            "",
        ),
        // MIG types with dots, a gres that is named cpu, typed before untyped.
        (
            "billing=64,cpu=9,gres/cpu=9,gres/gpu:a100_3g.20gb=1,gres/gpu=1,mem=60G,node=1",
            &["cpu 2026-11 9.00", "cpu2 2026-11 1.00", "disk 2026-11 1.00"],
            "      disk: { reading: \"gpu:a100_3g.20gb_seconds\", factor: 1/3600 }\n",
        ),
    ] {
        let world = world(CURRENT, NOON);
        of_jobs(&world, "", more);
        list(&world, &[of_job(1, "project-a", -7200, Some(-3600), 3600, tres)]);
        look(&world, 0).exits(0);
        assert_eq!(world.rows(A), right, "{tres}");
    }
}

#[test]
fn a_job_whose_account_is_corrected_leaves_one_resource_for_the_other() {
    for api in BOTH {
        let world = world(api, NOON);
        of_jobs(&world, "", "");
        let job = |account: &str| of_job(1, account, -7200, Some(-3600), 3600, "cpu=2");
        list(&world, &[job("project-a")]);
        look(&world, 0).exits(0);
        list(&world, &[job("project-b")]);
        look(&world, 10).exits(0);
        assert_eq!(
            (world.rows(A), world.rows(B)),
            (vec!["cpu 2026-11 0.00".to_owned()], vec!["cpu 2026-11 2.00".to_owned()])
        );
    }
}

/// It went below zero and around (2^32 - 1200), of a job of ten minutes.
#[test]
fn more_time_than_there_is_between_start_and_end_is_not_billed() {
    let world = world(CURRENT, NOON);
    of_jobs(&world, "", "");
    list(
        &world,
        &[
            of_job(1, "project-a", -3600, Some(-3000), 4_294_966_096, "cpu=1"),
            of_job(2, "project-a", -7200, Some(-3600), 3600, "cpu=2"),
        ],
    );
    look(&world, 0).exits(65);
    assert_eq!(world.rows(A), ["cpu 2026-11 2.00"]);
}

/// Older ones exit with errno modulo 256, and a pipe in a wrapper hides it: six days of that move nothing.
#[test]
fn six_days_of_an_error_with_exit_code_0_lose_no_job() {
    let world = world(CURRENT, NOON);
    of_jobs(&world, "", "");
    list(&world, &[of_job(1, "project-a", -7200, None, 7200, "cpu=1")]);
    on_day(&world, 10).exits(0);
    program(
        &world,
        "sacct",
        &format!(
            "printf '{}\\n'; echo 'sacct: error: slurmdbd: DBD_GET_JOBS_COND failure: Unspecified error' >&2",
            HEADER.trim()
        ),
    );
    for day in 11..17 {
        on_day(&world, day).exits(69);
    }
    program(&world, "sacct", include_str!("../collectors_slurm/honest.sh"));
    list(
        &world,
        &[
            of_job(1, "project-a", -7200, Some(3600), 10_800, "cpu=1"),
            of_job(2, "project-a", 7200, Some(43_200), 36_000, "cpu=1"),
        ],
    );
    on_day(&world, 17).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 13.00"]);
}

/// A wrapper (sudo, a container) drops SLURM_TIME_FORMAT, so that sacct prints other times.
#[test]
fn runs_of_which_no_line_is_understood_fail_and_lose_no_job() {
    let world = world(CURRENT, NOON);
    of_jobs(&world, "", "");
    let iso = "1|2026-11-10T10:00:00|2026-11-10T10:00:00|2026-11-10T11:00:00|3600|COMPLETED|project-a|alice|main|normal|alpha||cpu=2\n";
    list(&world, &[iso.to_owned()]);
    program(&world, "sacct", "cat answer");
    for day in 10..15 {
        on_day(&world, day).exits(69);
    }
    program(&world, "sacct", include_str!("../collectors_slurm/honest.sh"));
    list(&world, &[of_job(1, "project-a", -7200, Some(-3600), 3600, "cpu=2")]);
    on_day(&world, 15).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 2.00"]);
}

/// slurmdbd.conf's MaxQueryTimeRange.
#[test]
fn a_month_is_read_in_windows_that_slurmdbd_takes() {
    let world = world(CURRENT, NOON);
    of_jobs(&world, "", "");
    world.write("widest", &DAY.to_string());
    list(
        &world,
        &[
            of_job(1, "project-a", -8 * DAY, Some(3600 - 8 * DAY), 3600, "cpu=2"),
            of_job(2, "project-a", -7200, Some(-3600), 3600, "cpu=2"),
        ],
    );
    look(&world, 0).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 4.00"]);
}

/// A job across the first midnight of a month, of Havana's, too, where clocks go back in that hour.
#[test]
fn a_job_across_a_months_first_midnight_is_cut_by_the_billing_zone() {
    for (zone, first) in [("Europe/Tallinn", 1_793_484_000), ("America/Havana", 1_793_505_600)] {
        let world = World::of(Setting { api: CURRENT, now: NOON, zone, marketplace: market() });
        of_jobs(&world, &format!("billing_timezone: {zone}"), "");
        let first = first - NOW;
        list(&world, &[of_job(1, "project-a", first - 3600, Some(first + 7200), 10_800, "cpu=1")]);
        look(&world, 0).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 2.00"], "{zone}");
    }
}

#[test]
fn a_clock_that_is_a_month_ahead_at_boot_bills_no_wrong_month() {
    for api in BOTH {
        let world = world(api, NOON);
        of_jobs(&world, "", "");
        list(&world, &[of_job(1, "project-a", -DAY, None, DAY, "cpu=1")]);
        world.agent_clock("2026-12-10T12:00:00Z");
        world.flush();
        assert_eq!(world.rows(A), [""; 0], "{api}");
        list(&world, &[of_job(1, "project-a", -DAY, None, DAY + 600, "cpu=1")]);
        look(&world, 10);
        list(&world, &[of_job(1, "project-a", -DAY, Some(3600), DAY + 3600, "cpu=1")]);
        look(&world, 70).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 25.00"], "{api}");
    }
}

// Series of Prometheus.

/// One series, of a sample a minute since the midnight at which the 10th began.
fn of_series(labels: Value, value: impl Fn(i64) -> f64 + Send + 'static) -> server::Server {
    server::Server::start(move |heard| {
        let last: f64 = heard.line.split("time=").nth(1).unwrap().parse().unwrap();
        let range = heard.line.rsplit("%5B").next().unwrap().split("ms").next().unwrap();
        let first = last - range.parse::<f64>().unwrap() / 1000.0;
        let midnight = NOW - DAY / 2;
        let samples = (0..=720)
            .map(|minute| midnight + 60 * minute)
            .filter(|at| (first..=last).contains(&(*at as f64)));
        let values: Vec<Value> = samples.map(|at| json!([at, value(at - midnight).to_string()])).collect();
        let series = json!({ "metric": labels, "values": values });
        let result = if values.is_empty() { json!([]) } else { json!([series]) };
        server::json(
            json!({ "status": "success", "data": { "resultType": "matrix", "result": result } }).to_string(),
        )
    })
}

fn of_query(world: &World, server: &server::Server, query: &str, resource: &str, meter: &str) {
    let text = format!(
        "  p:\n    plugin: prometheus\n    schedule: every 5m\n    url: http://{}\n    since: 2026-11-10T00:00:00Z\n    queries:\n      \
         n: {{ query: '{query}', kind: counter, step: 5m }}\n{resource}    meters:\n      cpu: {{ reading: n{meter} }}\n",
        server.address
    );
    collectors(world, &text);
}

/// A pair of replicas that Thanos merges (thanos#1326, #2401): 10 lower once. 720 were counted in twelve hours, not 668,839.
#[test]
fn a_dip_of_a_merged_pair_is_no_restart() {
    let server = of_series(json!({ "project": "project-a" }), |second| {
        let minutes = (second / 60) as f64;
        668_000.0 + minutes - if second == 7200 { 10.0 } else { 0.0 }
    });
    let world = world(CURRENT, NOON);
    of_query(&world, &server, "events_total", OF_A, "");
    look(&world, 0);
    assert_eq!(world.rows(A), ["cpu 2026-11 720.00"]);
}

/// Prometheus 3: the metric stands in the braces.
#[test]
fn a_metric_and_labels_with_dots_are_asked_for_as_samples() {
    let server = of_series(json!({ "k8s.namespace.name": "project-a" }), |second| second as f64);
    let world = world(CURRENT, NOON);
    let resource =
        format!("    resource: {{ offering: {OFFERING}, backend_id: \"{{k8s.namespace.name}}\" }}\n");
    let query = "{\"container.cpu.time\",\"k8s.namespace.name\"=~\".+\"}";
    of_query(&world, &server, query, &resource, ", factor: 1/3600");
    look(&world, 0).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 12.00"]);
    let asked = "query=%7B%22container.cpu.time%22%2C%22k8s.namespace.name%22%3D%7E%22.%2B%22%7D%5B";
    assert!(server.lines()[0].contains(asked), "{}", server.lines()[0]);
}

// Control groups and directories.

/// green-metrics-tool#1837, lxd#10052: a file that ends behind a device's number, and devices without a line break between them.
#[test]
fn a_torn_and_a_merged_list_of_devices_cost_no_processor_time() {
    let world = world(CURRENT, NOON);
    groups(&world);
    collectors(
        &world,
        &of_groups(&world, "login", USERS, "      disk: { reading: io_read_bytes, factor: 1/1000000 }\n"),
    );
    let merged = "7:7 7:6 7:5 7:4 rbytes=28672 wbytes=0 rios=22 wios=0 dbytes=0 dios=0\n";
    let io = |bytes: u64| format!("{merged}8:0 rbytes={bytes} wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n");
    for (minute, hours, io) in
        [(0, 100, io(1_000_000)), (5, 101, "8:0 ".to_owned()), (10, 102, io(5_000_000))]
    {
        group(&world, "user.slice/user-1000.slice", hours * HOUR, &io);
        look(&world, minute);
    }
    assert_eq!(world.rows(A), ["cpu 2026-11 2.00", "disk 2026-11 4.00"]);
}

/// A folder whose name is not UTF-8.
fn odd_name(path: &Path, name: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    fs::create_dir_all(path.join(std::ffi::OsStr::from_bytes(name))).unwrap();
}

/// rust-lang/glob#162.
#[test]
fn names_that_are_not_utf8_are_told_and_the_others_count() {
    let of_cgroups = world(CURRENT, NOON);
    groups(&of_cgroups);
    odd_name(&of_cgroups.path("cgroup").join("user.slice"), b"user-\xff.slice");
    collectors(&of_cgroups, &of_groups(&of_cgroups, "login", USERS, ""));
    for (minute, hours) in [(0, 100), (5, 101)] {
        group(&of_cgroups, "user.slice/user-1000.slice", hours * HOUR, "");
        look(&of_cgroups, minute);
    }
    assert_eq!(of_cgroups.rows(A), ["cpu 2026-11 1.00"]);
    of_cgroups.agent(&["collect", "--dry-run"]).says("is left out: its name is not UTF-8");
    let of_homes = world(CURRENT, NOON);
    let home = of_homes.path("home");
    fs::create_dir_all(home.join("alice")).unwrap();
    fs::write(home.join("alice/f"), vec![b'x'; 5000]).unwrap();
    odd_name(&home, b"j\xf6rg");
    let text = format!(
        "  fs:\n    plugin: filesystem\n    schedule: every 5m\n    directories: {}/*\n{OF_A}    meters:\n      \
         disk: {{ reading: directory_apparent_bytes, aggregate: last, factor: 1/1000 }}\n",
        home.display()
    );
    collectors(&of_homes, &text);
    look(&of_homes, 0);
    assert_eq!(of_homes.rows(A), ["disk 2026-11 5.00"]);
    of_homes.agent(&["collect", "--dry-run"]).says("is left out: its name is not UTF-8");
}
