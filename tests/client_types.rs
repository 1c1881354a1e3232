//! The rows of the API, as several versions of the server write them.

use proptest::prelude::*;
use uuid::Uuid;
use waldur_usage_agent::waldur::types::{
    Me, Offering, OfferingUser, Plan, PlanPeriod, RawRow, Resource, UsageRow, UserUsageRow, uuid_of_address,
};

const HEX: &str = "5e2f0000000040008000000000000001";
const DASHED: &str = "5e2f0000-0000-4000-8000-000000000001";

fn row(usage: &str, rest: &str) -> Result<UsageRow, serde_json::Error> {
    serde_json::from_str(&format!(
        r#"{{"uuid":"{HEX}","type":"cpu_hours","usage":{usage},"resource_uuid":"{DASHED}","billing_period":"2026-11-01"{rest}}}"#
    ))
}

#[test]
fn a_whole_row_is_read() {
    let text = format!(
        r#"{{"uuid":"{HEX}","created":"2026-11-23T00:26:34.477006Z","description":"CPU","type":"cpu_hours",
        "name":"CPU hours","measured_unit":"h","usage":"32.00","date":"2026-11-23T00:26:34.477006Z","recurring":false,
        "resource_name":"Project A","resource_uuid":"{HEX}","offering_name":"Cluster","offering_uuid":"{HEX}",
        "project_name":"P","project_uuid":"{DASHED}","customer_name":"Acme","customer_uuid":"{HEX}",
        "billing_period":"2026-11-01","modified_by":28,"something_new":{{"a":[1,2]}}}}"#
    );
    let row: UsageRow = serde_json::from_str(&text).unwrap();
    assert_eq!(row.uuid, DASHED.parse::<Uuid>().unwrap());
    assert_eq!(row.usage.to_string(), "32.00");
    assert_eq!(row.billing_period.to_string(), "2026-11-01");
    assert_eq!(row.date.unwrap().to_string(), "2026-11-23T00:26:34.477006Z");
    assert_eq!(row.project_uuid, row.customer_uuid);
    assert_eq!((row.component.as_str(), row.modified_by.as_deref()), ("cpu_hours", Some("28")));
}

#[test]
fn amounts_are_exact_as_number_and_as_string() {
    for (usage, exact) in [
        (r#""32.00""#, "32.00"),
        ("32", "32"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("999999999999999999.99", "999999999999999999.99"),
        (r#""999999999999999999.99""#, "999999999999999999.99"),
        ("1e3", "1000"),
        ("-1.5", "-1.5"),
    ] {
        assert_eq!(row(usage, "").unwrap().usage.to_string(), exact, "{usage}");
    }
    // What cannot be read is no zero.
    for usage in ["null", r#""""#, r#""many""#, "[1]", "true", "1e99", "1e18", "-1e18", "7e28"] {
        assert!(row(usage, "").is_err(), "{usage}");
    }
}

#[test]
fn fields_that_changed_their_kind_or_are_gone_break_nothing() {
    for rest in [
        "",
        r#","modified_by":"https://w.example.com/api/users/1/","recurring":null,"date":null,"description":null"#,
        r#","modified_by":null,"recurring":"true","date":"soon","offering_uuid":"?","customer_uuid":7"#,
        r#","modified_by":{"id":1},"created":[],"name":{},"measured_unit":3"#,
    ] {
        row("1", rest).unwrap_or_else(|error| panic!("{rest}: {error}"));
    }
    // A row without the month that it is billed in proves nothing.
    let text = format!(r#"{{"uuid":"{HEX}","type":"cpu","usage":"1","resource_uuid":"{HEX}"}}"#);
    assert!(serde_json::from_str::<UsageRow>(&text).is_err());
}

#[test]
fn a_share_knows_its_row() {
    let text = format!(
        r#"{{"uuid":"{DASHED}","user":null,"username":"alice","usage":"4.00","measured_unit":"h","description":"",
        "component_usage":"https://w.example.com/api/marketplace-component-usages/{HEX}/","created":"x","modified":"y",
        "backend_id":"","resource_uuid":"{HEX}","component_type":"cpu_hours","date":"2026-11-23T00:26:34.477006Z"}}"#
    );
    let share: UserUsageRow = serde_json::from_str(&text).unwrap();
    assert_eq!(share.row(), Some(DASHED.parse().unwrap()));
    assert_eq!((share.username.as_str(), share.usage.to_string().as_str()), ("alice", "4.00"));
    assert_eq!(uuid_of_address("https://w.example.com/api/"), None);
    assert_eq!(uuid_of_address(&format!("/api/x/{HEX}?a=b")), Some(DASHED.parse().unwrap()));
    assert_eq!(uuid_of_address(""), None);
}

#[test]
fn a_plan_period_that_has_not_ended_is_told_from_one_whose_end_is_garbled() {
    let period = |end: &str| {
        serde_json::from_str::<PlanPeriod>(&format!(
            r#"{{"uuid":"{HEX}","plan_name":"Basic","plan_uuid":"{HEX}","start":"2026-10-05T10:00:00Z","end":{end},
            "components":[{{"uuid":"{HEX}","created":"x","description":"","type":"cpu_hours","name":"n",
            "measured_unit":"h","usage":"31.00","date":"2026-11-02T00:00:00Z","recurring":false}}]}}"#
        ))
    };
    let open = period("null").unwrap();
    assert_eq!((open.end, open.components[0].usage.unwrap().to_string().as_str()), (None, "31.00"));
    assert!(period(r#""2026-11-10T12:00:00+02:00""#).unwrap().end.is_some());
    assert!(period(r#""soon""#).is_err());
}

#[test]
fn no_plan_is_told_from_a_plan_that_was_not_told() {
    let plan =
        |rest: &str| serde_json::from_str::<Resource>(&format!(r#"{{"uuid":"{HEX}"{rest}}}"#)).unwrap().plan;
    assert_eq!(plan(""), Plan::NotTold);
    assert_eq!(plan(r#","plan_uuid":null"#), Plan::None);
    assert_eq!(plan(&format!(r#","plan_uuid":"{HEX}""#)), Plan::Is(DASHED.parse().unwrap()));
    assert_eq!(plan(r#","plan_uuid":{}"#), Plan::NotTold);
}

#[test]
fn resources_offerings_accounts_and_owners_are_read() {
    let resource: Resource = serde_json::from_str(&format!(
        r#"{{"uuid":"{HEX}","name":"A","backend_id":null,"state":"Paused somehow",
        "current_usages":{{"cpu_hours":"7.00","gpu_hours":3,"odd":null}}}}"#
    ))
    .unwrap();
    assert_eq!((resource.backend_id.as_str(), resource.state.as_str()), ("", "Paused somehow"));
    assert_eq!(resource.current_usages.len(), 2);
    let none = format!(r#"{{"uuid":"{HEX}","current_usages":null}}"#);
    assert!(serde_json::from_str::<Resource>(&none).unwrap().current_usages.is_empty());

    let offering: Offering = serde_json::from_str(&format!(
        r#"{{"uuid":"{HEX}","name":"Cluster","type":"Support","state":"Active","components":[
        {{"uuid":"{HEX}","billing_type":"usage","type":"cpu_hours","name":"CPU","measured_unit":"h","limit_period":null,
        "limit_amount":100,"factor":1,"is_builtin":false}}, {{"no":"type"}}, {{"type":"x","billing_type":"new"}}]}}"#
    ))
    .unwrap();
    assert_eq!(offering.components.len(), 2);
    assert_eq!(offering.components[0].limit_amount, Some(100.into()));

    let user: OfferingUser = serde_json::from_str(&format!(
        r#"{{"uuid":"{HEX}","url":"https://w/api/marketplace-offering-users/{HEX}/","username":null}}"#
    ))
    .unwrap();
    assert_eq!(user.username, "");

    let me: Me = serde_json::from_str(&format!(
        r#"{{"uuid":"{HEX}","username":"provider","token":"s3cret","token_lifetime":3600,"is_staff":false,
        "permissions":[{{"role_name":"OFFERING.MANAGER","scope_type":"offering","scope_uuid":"{HEX}",
        "scope_name":"Cluster","expiration_time":null,"customer_uuid":"{HEX}"}}]}}"#
    ))
    .unwrap();
    assert_eq!((me.token_lifetime, me.permissions.len()), (Some(3600), 1));
    assert!(!format!("{me:?}").contains("s3cret"));
    assert_eq!(serde_json::from_str::<Me>(&none).unwrap().token_lifetime, None);
}

#[test]
fn a_raw_row_keeps_every_field_as_it_came() {
    let raw: RawRow = serde_json::from_str(r#"{"z":1.50,"a":"x","n":null,"l":[1]}"#).unwrap();
    assert_eq!(raw.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["z", "a", "n", "l"]);
    assert_eq!(raw.text("z").as_deref(), Some("1.50"));
    assert_eq!((raw.text("n"), raw.text("l"), raw.text("q")), (None, None, None));
}

proptest! {
    #[test]
    fn any_value_in_any_field_is_read_or_refused_without_a_panic(value in r#"("[ -~]{0,20}"|[-+0-9.eE]{1,40}|null|true|\[\]|\{\})"#) {
        let text = format!(
            r#"{{"uuid":"{HEX}","type":"c","username":"u","usage":{value},"resource_uuid":{value},"date":{value},
            "billing_period":{value},"start":{value},"end":{value},"plan_uuid":{value},"current_usages":{value},
            "components":{value},"permissions":{value},"token_lifetime":{value},"recurring":{value},"end_date":{value}}}"#
        );
        let _ = serde_json::from_str::<UsageRow>(&text);
        let _ = serde_json::from_str::<UserUsageRow>(&text);
        let _ = serde_json::from_str::<PlanPeriod>(&text);
        let _ = serde_json::from_str::<Resource>(&text);
        let _ = serde_json::from_str::<Offering>(&text);
        let _ = serde_json::from_str::<Me>(&text);
        let _ = serde_json::from_str::<RawRow>(&text);
    }
}
