//! Schedules against literal times; the odd nights are those of Tallinn (and of two stranger places).

use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn schedule(text: &str, name: &str) -> Schedule {
    Schedule::parse(text, zone(name)).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The next times after `after`, as the zone's own clock shows them.
fn next(text: &str, name: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text, name);
    let mut last = at(after);
    (0..count)
        .map(|_| {
            last = schedule.next_after(last).unwrap();
            last.to_zoned(zone(name)).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        })
        .collect()
}

fn refused(text: &str) -> String {
    Schedule::parse(text, TimeZone::UTC).unwrap_err()
}

#[test]
fn crontab_rules_fire_when_they_say() {
    assert_eq!(
        next("*/5 * * * *", "UTC", "2026-11-05T10:02:30Z", 2),
        ["2026-11-05T10:05:00+00:00", "2026-11-05T10:10:00+00:00",]
    );
    assert_eq!(
        next("30 6,18 * * *", "Europe/Tallinn", "2026-11-05T10:00:00Z", 2),
        ["2026-11-05T18:30:00+02:00", "2026-11-06T06:30:00+02:00",]
    );
    assert_eq!(
        next("10-20/5 0 29 feb *", "UTC", "2026-11-05T10:00:00Z", 4),
        [
            "2028-02-29T00:10:00+00:00",
            "2028-02-29T00:15:00+00:00",
            "2028-02-29T00:20:00+00:00",
            "2032-02-29T00:10:00+00:00",
        ]
    );
    assert_eq!(next("  59 23 31 12 * ", "UTC", "2026-12-31T23:59:00Z", 1), ["2027-12-31T23:59:00+00:00"]);
}

#[test]
fn the_next_time_is_never_the_time_itself() {
    for (after, expected) in [
        ("2026-11-05T09:59:59.999999999Z", "2026-11-05T10:00:00+00:00"),
        ("2026-11-05T10:00:00Z", "2026-11-05T11:00:00+00:00"),
        ("2026-11-05T10:00:00.000000001Z", "2026-11-05T11:00:00+00:00"),
    ] {
        assert_eq!(next("0 * * * *", "UTC", after, 1), [expected]);
        assert_eq!(next("every 1h", "UTC", after, 1), [expected]);
        assert_eq!(next("0 0-23 * * *", "UTC", after, 1), [expected]);
    }
}

#[test]
fn nicknames_mean_what_cron_means() {
    for (text, expected) in [
        ("@hourly", "2026-11-05T11:00:00+00:00"),
        ("@daily", "2026-11-06T00:00:00+00:00"),
        ("@Midnight", "2026-11-06T00:00:00+00:00"),
        ("@weekly", "2026-11-08T00:00:00+00:00"),
        ("@monthly", "2026-12-01T00:00:00+00:00"),
        ("@yearly", "2027-01-01T00:00:00+00:00"),
        ("@annually", "2027-01-01T00:00:00+00:00"),
    ] {
        assert_eq!(next(text, "UTC", "2026-11-05T10:00:00Z", 1), [expected], "{text}");
    }
}

#[test]
fn sunday_is_0_and_7_and_a_name() {
    // 2026-11-08 is a Sunday.
    for text in ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * SUN"] {
        assert_eq!(
            next(text, "UTC", "2026-11-05T10:00:00Z", 2),
            ["2026-11-08T00:00:00+00:00", "2026-11-15T00:00:00+00:00",]
        );
    }
    for text in ["0 0 * * 5-7", "0 0 * * fri-sun", "0 0 * * 5,6,0", "0 0 * * 5-0"] {
        assert_eq!(
            next(text, "UTC", "2026-11-05T10:00:00Z", 4),
            [
                "2026-11-06T00:00:00+00:00",
                "2026-11-07T00:00:00+00:00",
                "2026-11-08T00:00:00+00:00",
                "2026-11-13T00:00:00+00:00",
            ]
        );
    }
    assert_eq!(next("0 0 * * 1", "UTC", "2026-11-05T10:00:00Z", 1), ["2026-11-09T00:00:00+00:00"]);
}

#[test]
fn either_day_will_do_unless_one_is_a_star() {
    // Fridays are 6 and 13 November, 4 December.
    assert_eq!(
        next("0 0 13 * 5", "UTC", "2026-11-05T10:00:00Z", 4),
        [
            "2026-11-06T00:00:00+00:00",
            "2026-11-13T00:00:00+00:00",
            "2026-11-20T00:00:00+00:00",
            "2026-11-27T00:00:00+00:00",
        ]
    );
    assert_eq!(
        next("0 0 13 * *", "UTC", "2026-11-05T10:00:00Z", 2),
        ["2026-11-13T00:00:00+00:00", "2026-12-13T00:00:00+00:00",]
    );
    // `*/2` starts with a star, so both must hold: odd days that are Mondays.
    assert_eq!(
        next("0 0 */2 * 1", "UTC", "2026-11-05T10:00:00Z", 2),
        ["2026-11-09T00:00:00+00:00", "2026-11-23T00:00:00+00:00",]
    );
}

#[test]
fn a_time_that_the_spring_swallows_runs_once_just_after() {
    // 2027-03-28 in Tallinn: 03:00 to 04:00 do not exist.
    for text in ["30 3 * * *", "0 3 * * *", "0,15,30,45 3 * * *", "0-59/10 3 * * *"] {
        let times = next(text, "Europe/Tallinn", "2027-03-27T22:00:00Z", 2);
        assert_eq!(times[0], "2027-03-28T04:00:00+03:00", "{text}");
        assert!(times[1].starts_with("2027-03-29T03:"), "{text}: {times:?}");
    }
    // What is due in the gap and at its end is due once.
    assert_eq!(
        next("30 3,4 * * *", "Europe/Tallinn", "2027-03-28T00:59:59Z", 2),
        ["2027-03-28T04:00:00+03:00", "2027-03-28T04:30:00+03:00",]
    );
    assert_eq!(
        next("0 3,4 * * *", "Europe/Tallinn", "2027-03-28T00:59:59Z", 2),
        ["2027-03-28T04:00:00+03:00", "2027-03-29T03:00:00+03:00",]
    );
    // With a star, the clock is followed: there is no 03:30 that day.
    assert_eq!(
        next("*/30 * * * *", "Europe/Tallinn", "2027-03-28T00:45:00Z", 2),
        ["2027-03-28T04:00:00+03:00", "2027-03-28T04:30:00+03:00",]
    );
    assert_eq!(
        next("*/30 3 * * *", "Europe/Tallinn", "2027-03-27T22:00:00Z", 1),
        ["2027-03-29T03:00:00+03:00"]
    );
    // A midnight that does not exist, and a gap of half an hour.
    assert_eq!(
        next("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", 2),
        ["2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00",]
    );
    assert_eq!(
        next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 2),
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00",]
    );
}

#[test]
fn a_time_that_the_autumn_repeats_runs_once() {
    // 2026-10-25 in Tallinn: 03:00 to 04:00 come twice.
    assert_eq!(
        next("30 3 * * *", "Europe/Tallinn", "2026-10-24T22:00:00Z", 2),
        ["2026-10-25T03:30:00+03:00", "2026-10-26T03:30:00+02:00",]
    );
    assert_eq!(
        next("0,30 3 * * *", "Europe/Tallinn", "2026-10-24T22:00:00Z", 3),
        ["2026-10-25T03:00:00+03:00", "2026-10-25T03:30:00+03:00", "2026-10-26T03:00:00+02:00",]
    );
    // Asked within the second half, all of the first is over; what comes after is not.
    assert_eq!(
        next("30 3,4 * * *", "Europe/Tallinn", "2026-10-25T01:10:00Z", 1),
        ["2026-10-25T04:30:00+02:00"]
    );
    // With a star, the clock is followed, in order.
    assert_eq!(
        next("*/30 * * * *", "Europe/Tallinn", "2026-10-24T23:45:00Z", 5),
        [
            "2026-10-25T03:00:00+03:00",
            "2026-10-25T03:30:00+03:00",
            "2026-10-25T03:00:00+02:00",
            "2026-10-25T03:30:00+02:00",
            "2026-10-25T04:00:00+02:00",
        ]
    );
    assert_eq!(
        next("15 * * * *", "Europe/Tallinn", "2026-10-25T00:10:00Z", 3),
        ["2026-10-25T03:15:00+03:00", "2026-10-25T03:15:00+02:00", "2026-10-25T04:15:00+02:00",]
    );
}

#[test]
fn every_is_counted_from_1970_whatever_the_zone() {
    assert_eq!(
        next("every 5m", "Europe/Tallinn", "2026-11-05T10:02:30Z", 2),
        ["2026-11-05T12:05:00+02:00", "2026-11-05T12:10:00+02:00",]
    );
    assert_eq!(next("every 30s", "UTC", "2026-11-05T10:00:00.5Z", 1), ["2026-11-05T10:00:30+00:00"]);
    assert_eq!(next("every 1h30m", "UTC", "2026-11-05T00:00:00Z", 1), ["2026-11-05T01:30:00+00:00"]);
    assert_eq!(next("every  90s ", "UTC", "1970-01-01T00:00:00Z", 1), ["1970-01-01T00:01:30+00:00"]);
    assert_eq!(next("every 1h", "UTC", "1969-12-31T23:30:00.5Z", 1), ["1970-01-01T00:00:00+00:00"]);
    assert_eq!(
        next("every 1s", "UTC", "1969-12-31T23:59:58.5Z", 2),
        ["1969-12-31T23:59:59+00:00", "1970-01-01T00:00:00+00:00",]
    );
}

#[test]
fn what_is_no_crontab_is_refused_in_words() {
    for (text, reason) in [
        ("", "`` has 0 fields; a schedule has five"),
        ("* * * *", "`* * * *` has 4 fields"),
        (
            "0 */5 * * * *",
            "`0 */5 * * * *` has 6 fields; a schedule has five (minute, hour, day of month, month, day of \
          week): without seconds and years; `every 30s` is",
        ),
        ("0 0 0 1 1 * 2027", "`0 0 0 1 1 * 2027` has 7 fields"),
        ("60 * * * *", "`60 * * * *`: minute `60` must be *, or numbers between 0 and 59"),
        ("* 24 * * *", "`* 24 * * *`: hour `24` must be"),
        ("* * 0 * *", "`* * 0 * *`: day of month `0` must be"),
        ("* * * 13 *", "`* * * 13 *`: month `13` must be"),
        ("* * * * 8", "`* * * * 8`: day of week `8` must be"),
        ("mon * * * *", "`mon * * * *`: minute `mon` must be"),
        ("0 0 L * *", "`0 0 L * *`: day of month `L` must be"),
        ("0 0 ? * 1#2", "`0 0 ? * 1#2`: day of month `?` must be"),
        ("0 22-2 * * *", "`0 22-2 * * *`: hour `22-2` runs backwards; write 22-23,0-2"),
        ("5/15 * * * *", "`5/15 * * * *`: minute `5/15` has a step without a range; write 5-59/15"),
        ("*/0 * * * *", "`*/0 * * * *`: minute `*/0` has a step that is not between 1 and 59"),
        ("*/ * * * *", "`*/ * * * *`: minute `*/` has a step that is not"),
        ("1,,2 * * * *", "`1,,2 * * * *`: minute `1,,2` must be"),
        ("@reboot", "`@reboot` is no time; the agent does what is due when it starts"),
        ("@fortnightly", "`@fortnightly` is unknown; known: @hourly, @daily, @weekly, @monthly, @yearly"),
        ("0 0 30 2 *", "`0 0 30 2 *` never comes: there is no such day"),
        ("0 0 31 4,6,9,11 *", "`0 0 31 4,6,9,11 *` never comes"),
        ("every 0s", "`0s` is no time at all"),
        ("every 5", "`5` needs a unit"),
        ("every", "`every` has 1 fields"),
    ] {
        let told = refused(text);
        assert!(told.starts_with(reason), "{text}\n  {told}\n  {reason}");
    }
    // Fridays in February make up for the 30th.
    assert!(Schedule::parse("0 0 30 2 5", TimeZone::UTC).is_ok());
}

#[test]
fn the_usual_distance_is_the_commonest() {
    for (text, seconds) in [
        ("*/5 * * * *", 300),
        ("every 30s", 30),
        ("@hourly", 3_600),
        ("@daily", 86_400),
        ("0 9-17 * * 1-5", 3_600),
        ("30 6,18 * * *", 43_200),
        ("0 0 * * 1", 604_800),
        ("@monthly", 31 * 86_400),
        ("@yearly", 365 * 86_400),
        ("0 0 29 2 *", 1_461 * 86_400),
    ] {
        assert_eq!(
            schedule(text, "Europe/Tallinn").usual_distance(),
            SignedDuration::from_secs(seconds),
            "{text}"
        );
    }
}

#[test]
fn jitter_puts_all_times_off_alike_and_a_restart_does_not_move_them() {
    let plain = schedule("*/5 * * * *", "UTC");
    let spread = |who: &str| plain.clone().spread(SignedDuration::from_mins(5), who);
    let start = at("2026-11-05T10:00:00Z");
    let offset = |schedule: &Schedule| schedule.next_after(start).unwrap().duration_since(start);
    let mut offsets = std::collections::BTreeSet::new();
    for host in 0..100 {
        let schedule = spread(&format!("host {host}"));
        let first = offset(&schedule);
        assert!(first > SignedDuration::ZERO && first <= SignedDuration::from_mins(5), "{first:?}");
        assert_eq!(offset(&spread(&format!("host {host}"))), first, "the same after a restart");
        let mut last = start + first;
        for _ in 0..3 {
            let next = schedule.next_after(last).unwrap();
            assert_eq!(next.duration_since(last), SignedDuration::from_mins(5), "even distances");
            last = next;
        }
        offsets.insert(first);
    }
    // A hundred hosts in 300 seconds: over all of it, and hardly two at once.
    assert!(offsets.len() > 95, "{offsets:?}");
    assert!(offsets.first().unwrap().as_secs() < 30 && offsets.last().unwrap().as_secs() > 270);
    assert_eq!(spread("x").usual_distance(), plain.usual_distance());
}

#[test]
fn jitter_is_a_key_beside_the_schedule_and_not_longer_than_its_distance() {
    let read = |text: &str| {
        let (mut section, problems) = Section::parse(text);
        let schedule = schedule("*/5 * * * *", "UTC").with_jitter(&mut section, "c");
        section.finish();
        (schedule.shift, problems.list().into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>())
    };
    let (shift, problems) = read("jitter: 5m");
    assert!(shift < SignedDuration::from_mins(5) && problems.is_empty(), "{shift:?} {problems:?}");
    assert_eq!(read("{}"), (SignedDuration::ZERO, Vec::new()));
    let (shift, problems) = read("jitter: 6m");
    assert_eq!(shift, SignedDuration::ZERO);
    assert!(
        problems[0].contains("must not be longer than the schedule's usual distance (5m)"),
        "{problems:?}"
    );
}

#[test]
fn times_between_two_instants_are_counted() {
    let between =
        |text: &str, from: &str, to: &str, most| schedule(text, "UTC").times_between(at(from), at(to), most);
    let (ten, eleven) = ("2026-11-05T10:00:00Z", "2026-11-05T11:00:00Z");
    assert_eq!(between("*/5 * * * *", ten, eleven, 100), 12);
    assert_eq!(between("*/5 * * * *", ten, eleven, 7), 7);
    assert_eq!(between("@daily", ten, eleven, 100), 0);
    assert_eq!(between("every 1h", eleven, ten, 100), 0);
}

fn any_zone() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Tallinn",
        "America/New_York",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Apia",
    ])
}

fn any_schedule() -> impl Strategy<Value = String> {
    let minute = prop::sample::select(vec!["0", "30", "*/15", "5,35", "0-59/7", "*", "59"]);
    let hour = prop::sample::select(vec!["*", "0", "2", "3", "1-4", "*/6", "2,3", "23"]);
    let day = prop::sample::select(vec!["*", "1", "28", "*/2", "1,15", "31"]);
    let month = prop::sample::select(vec!["*", "3", "10", "3,4,9,10,11"]);
    let weekday = prop::sample::select(vec!["*", "0", "7", "1-5", "6"]);
    (minute, hour, day, month, weekday).prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_next_time_is_later_and_the_same_from_anywhere_before_it(
        text in any_schedule(),
        name in any_zone(),
        second in 1_767_225_600_i64..1_893_456_000,
        part in 0_i64..1_000_000,
    ) {
        let schedule = schedule(&text, name);
        let after = Timestamp::from_second(second).unwrap();
        let next = schedule.next_after(after).unwrap();
        prop_assert!(next > after);
        let between = second + (next.as_second() - 1 - second) * part / 1_000_000;
        prop_assert_eq!(schedule.next_after(Timestamp::from_second(between).unwrap()), Some(next));
        let just_before = Timestamp::new(next.as_second() - 1, 999_999_999).unwrap();
        prop_assert_eq!(schedule.next_after(just_before), Some(next));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), like in "[0-9*/,a-z@-]{0,6}( [0-9*/,a-z-]{1,5}){0,6}") {
        let _ = (Schedule::parse(&text, TimeZone::UTC), Schedule::parse(&like, TimeZone::UTC));
    }
}
