//! Files of waldur-site-agent as its own documents show them, and what becomes of them.

use secrecy::ExposeSecret;

use super::*;

const OFFERING: &str = "91ab1c7a-9d3b-4c60-a1b2-c3d4e5f60718";

/// The example of its page on reporting from SLURM.
fn reporting(more: &str) -> String {
    format!(
        r#"
sentry_dsn: ""
timezone: "Europe/Tallinn"
offerings:
  - name: "SLURM Usage Reporting"
    waldur_api_url: "https://waldur.example.com/api/"
    waldur_api_token: "s3cret"
    waldur_offering_uuid: "{OFFERING}"
    username_management_backend: "base"
    order_processing_backend: "slurm"
    membership_sync_backend: "slurm"
    reporting_backend: "slurm"
    mqtt_enabled: false
    stomp_enabled: false
    backend_type: "slurm"
    backend_settings:
      default_account: "root"
      customer_prefix: "hpc_"
      project_prefix: "hpc_"
      allocation_prefix: "hpc_"
    backend_components:
      cpu: {{ limit: 10, measured_unit: "k-Hours", unit_factor: 60000, accounting_type: "usage", label: "CPU" }}
      mem: {{ limit: 10, measured_unit: "gb-Hours", unit_factor: 61440, accounting_type: "usage", label: "RAM" }}
{more}"#
    )
}

fn meters_of(collector: &Collector) -> Vec<&str> {
    let meter = |line: &'_ Line| match line {
        Line::Meter(_) => true,
        Line::Comment(_) => false,
    };
    let texts = collector.meters.iter().filter(|line| meter(line)).map(|line| match line {
        Line::Meter(text) | Line::Comment(text) => text.as_str(),
    });
    texts.collect()
}

#[test]
fn a_slurm_offering_is_taken_over_with_the_factors_that_make_the_same_numbers() {
    let taken = read(&reporting(""), None).unwrap();
    assert_eq!(taken.url, "https://waldur.example.com/api/");
    assert_eq!(taken.token.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!(taken.billing_timezone, "Europe/Tallinn");
    assert_eq!(taken.left, Vec::<String>::new());
    let [collector] = taken.collectors.as_slice() else { panic!("{taken:?}") };
    assert_eq!(collector.name, "slurm-usage-reporting");
    // 60,000 CPU minutes a k-Hour: 3,600,000 s. 61,440 MiB minutes a GB-hour: 61440 x 60 x 1048576 B s.
    assert_eq!(
        meters_of(collector),
        [
            "cpu: { reading: cpu_seconds, factor: 1/3600000 }",
            "mem: { reading: memory_byte_seconds, factor: 1/3865470566400 }"
        ]
    );
    assert!(collector.keys.contains(&"tres: requested".to_owned()), "{collector:?}");
    assert!(collector.keys.contains(&"ignore: [root]".to_owned()), "{collector:?}");
    let resource = of_account(OFFERING);
    assert!(collector.keys.windows(resource.len()).any(|keys| keys == resource), "{collector:?}");
    let about = collector.about.concat();
    assert!(about.contains("allocation_prefix hpc_"), "{about}");
}

#[test]
fn components_made_of_others_are_meters_that_add_up() {
    let text = reporting("").replace(
        "      cpu: {",
        "      node_hours: { measured_unit: h, unit_factor: 60, target_components: { cpu: { factor: 7680.0 }, gres/gpu: { factor: \
         240 } }, accounting_type: usage, label: N }\n      cpu: {",
    );
    let taken = read(&text, None).unwrap();
    // 7,680 CPU minutes are a node-hour: 460,800 s; 240 GPU minutes: 14,400 s. What is not made of others counts plain minutes
    // then, because their agent leaves `unit_factor` out.
    assert_eq!(
        meters_of(&taken.collectors[0]),
        [
            "cpu: { reading: cpu_seconds, factor: 1/60 }",
            "mem: { reading: memory_byte_seconds, factor: 1/62914560 }",
            "node_hours-cpu: { component: node_hours, reading: cpu_seconds, factor: 1/460800 }",
            "node_hours-gres-gpu: { component: node_hours, reading: gpu_seconds, factor: 1/14400 }",
        ]
    );
    assert!(taken.left.concat().contains("rounds them to whole numbers"), "{:?}", taken.left);
}

#[test]
fn what_cannot_be_taken_over_is_said() {
    let more = r#"    verify_ssl: false
    omit_anomalous_usage_components: true
    teleport: yes
  - name: Registry
    waldur_api_url: "https://waldur.example.com/api/"
    waldur_api_token: "s3cret"
    waldur_offering_uuid: "91ab0000-0000-4000-8000-000000000002"
    reporting_backend: harbor
  - name: Orders only
    waldur_api_url: "https://waldur.example.com/api/"
    waldur_api_token: "s3cret"
    waldur_offering_uuid: "91ab0000-0000-4000-8000-000000000003"
    order_processing_backend: slurm
"#;
    let text = reporting(more)
        .replace("sentry_dsn: \"\"", "global_proxy: http://proxy:3128\nreporting_periods: 2\ntmezone: UTC");
    let text = text.replace(
        "measured_unit: \"k-Hours\", unit_factor: 60000",
        "measured_unit: x, unit_factor: 0, unit_facter: 1",
    );
    let text = text.replacen(
        "backend_settings:\n",
        "timezone: Europe/Tallinn\n    backend_settings:\n      tres_sources: x\n",
        1,
    );
    let taken = read(&text, None).unwrap();
    let left = taken.left.join("\n");
    for words in [
        "global_proxy: set HTTPS_PROXY",
        "reporting_periods: a month that is over is settled here",
        "tmezone: there is nothing like it here",
        "verify_ssl: false; certificates are always checked here",
        "omit_anomalous_usage_components",
        "teleport: there is nothing like it here",
        "Registry: reporting_backend harbor: begin with config/http-harbor.yaml",
        "Orders only: it has no `reporting_backend`",
        "SLURM Usage Reporting: cpu: its factor `0` can't be used",
        "SLURM Usage Reporting: cpu: unit_facter: there is nothing like it here",
        "SLURM Usage Reporting: backend_settings: tres_sources: there is nothing like it here",
        "SLURM Usage Reporting: timezone: it stands beside `offerings:` there",
    ] {
        assert!(left.contains(words), "`{words}` in\n{left}");
    }
    assert_eq!(taken.collectors.len(), 1);
    assert!(!left.contains("s3cret"));
}

#[test]
fn several_waldurs_take_a_choice() {
    let more = r#"  - name: Elsewhere
    waldur_api_url: "https://other.example.com/api/"
    waldur_api_token: "0ther"
    waldur_offering_uuid: "91ab0000-0000-4000-8000-000000000002"
    reporting_backend: slurm
    backend_settings: { cluster_name: beta, usage_tres_source: allocated, default_account: hpc }
    backend_components: { "gres/gpu:a100": { measured_unit: h, unit_factor: 60.0 } }
"#;
    let why = read(&reporting(more), None).unwrap_err();
    assert!(why.contains("--offering") && why.contains("`Elsewhere`") && !why.contains("0ther"), "{why}");
    let taken = read(&reporting(more), Some("Elsewhere")).unwrap();
    assert_eq!(taken.url, "https://other.example.com/api/");
    let collector = &taken.collectors[0];
    assert_eq!(
        meters_of(collector),
        ["\"gres/gpu:a100\": { reading: \"gpu:a100_seconds\", factor: 1/3600 }"]
    );
    for key in ["clusters: beta", "tres: allocated", "ignore: [hpc, root]"] {
        assert!(collector.keys.contains(&key.to_owned()), "{collector:?}");
    }
    assert!(read(&reporting(more), Some("Nowhere")).unwrap_err().contains("SLURM Usage Reporting"));
}

#[test]
fn what_is_no_such_file_is_refused() {
    for text in ["", "a: [", "offerings: []", "offerings: 3", "- 1", "offerings: [{}]"] {
        assert!(read(text, None).is_err(), "{text}");
    }
}
