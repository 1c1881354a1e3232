//! What is judged of every run, in memory and beyond it.

use super::*;
use crate::collectors::{IN_MEMORY, SeriesFilter};
use crate::metering::reading::Kind;

const NOW: &str = "2026-11-10T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn gauge(name: &str, user: &str, value: i64) -> Reading {
    Reading::new(name, Kind::Gauge, value.into(), at(NOW)).label("user", user)
}

fn job(id: &str, account: &str, value: i64) -> Reading {
    let span = Span::Interval { start: at("2026-11-10T10:00:00Z"), end: at("2026-11-10T11:00:00Z") };
    let reading = Reading::new("cpu_seconds", Kind::Delta, value.into(), at(NOW)).label("account", account);
    Reading { span, id: Some(id.to_owned()), ..reading }
}

/// Finishes a run of these, once as they are and once behind more than memory holds.
fn finished(readings: Vec<Reading>) -> [(Vec<String>, Vec<String>, Option<String>); 2] {
    [0, IN_MEMORY].map(|before| {
        let mut batch = Batch::default();
        for n in 0..before {
            batch.push(gauge("other", &n.to_string(), 1));
        }
        readings.iter().for_each(|reading| batch.push(reading.clone()));
        let failed = batch.finish(at(NOW), &BTreeSet::new()).err().map(|error| error.0);
        let more: Vec<Reading> = batch.more.read().unwrap().collect::<Result<_, _>>().unwrap();
        let kept = batch.readings.iter().chain(&more).filter(|reading| reading.name != "other");
        let kept = kept.map(|reading| format!("{} {:?} {}", reading.name, reading.labels, reading.value));
        let told = batch.quarantined.iter().map(|bad| format!("{}: {}", bad.what, bad.reason));
        (kept.collect(), told.collect(), failed)
    })
}

#[test]
fn two_values_of_one_reading_are_none_in_whichever_order_they_come() {
    let none = "which is meant can't be known, so none counts";
    let tell_apart = "; what are different things need labels or an id that tell them apart";
    for values in [[100, 5000], [5000, 100]] {
        let [first, second] = values;
        for (kept, told, failed) in finished(vec![
            gauge("level", "alice", first),
            gauge("level", "bob", 7),
            gauge("level", "alice", second),
            // The same once more is one.
            gauge("level", "bob", 7),
        ]) {
            assert_eq!(kept, [r#"level {"user": "bob"} 7"#]);
            assert_eq!(
                told,
                [format!(
                    "level {{\"user\": \"alice\"}}: this reading is there 2 times in one run, with the values {first} and \
                     {second}: {none}{tell_apart}"
                )]
            );
            assert_eq!(failed, None);
        }
    }
    // Of a job it is the id that makes it one, whosever it is.
    for (kept, told, _) in
        finished(vec![job("1", "a", 60), job("1", "b", 60), job("2", "a", 60), job("2", "a", 60)])
    {
        assert_eq!(kept, [r#"cpu_seconds {"account": "a"} 60"#]);
        assert_eq!(
            told,
            [format!(
                "cpu_seconds 1 {{\"account\": \"a\"}}: this reading is there 2 times in one run, with other times or labels: {none}"
            )]
        );
    }
}

/// Without an id it is name, labels, start and end.
#[test]
fn what_begins_at_another_time_is_another_reading() {
    let delta = |start: &str, value: i64| {
        let span = Span::Interval { start: at(start), end: at("2026-11-10T11:00:00Z") };
        Reading { span, ..Reading::new("sent", Kind::Delta, value.into(), at(NOW)) }
    };
    let both = vec![delta("2026-11-10T10:00:00Z", 1), delta("2026-11-10T10:30:00Z", 2)];
    for (kept, told, _) in finished(both) {
        assert_eq!((kept.len(), told.len()), (2, 0));
    }
}

#[test]
fn what_can_not_have_been_when_it_says_is_set_aside() {
    let seen = |text: &str| Reading { span: Span::At(at(text)), ..gauge("level", text, 1) };
    let mut began = gauge("level", "began", 1);
    began.kind = Kind::Counter;
    began.epoch.began = Some(at("2009-12-31T23:59:59Z"));
    let readings = vec![
        seen("2026-11-10T12:05:00Z"),
        seen("2026-11-10T12:05:01Z"),
        seen("2010-01-01T00:00:00Z"),
        seen("2009-12-31T23:59:59Z"),
        began,
    ];
    for (kept, told, _) in finished(readings) {
        assert_eq!(
            kept,
            [r#"level {"user": "2026-11-10T12:05:00Z"} 1"#, r#"level {"user": "2010-01-01T00:00:00Z"} 1"#]
        );
        let reasons: Vec<&str> = told.iter().map(|told| told.split_once("}: ").unwrap().1).collect();
        assert_eq!(
            reasons,
            [
                "its time 2026-11-10T12:05:01Z lies in the future (now is 2026-11-10T12:00:00Z); is a clock wrong?",
                "its time 2009-12-31T23:59:59Z lies before 2010; is a clock wrong?",
                "its time 2009-12-31T23:59:59Z lies before 2010; is a clock wrong?",
            ]
        );
    }
}

/// What a run found.
enum Found {
    Good(&'static str),
    Bad(Bearing),
    Known,
}

#[test]
fn a_run_that_could_read_nothing_of_what_is_wanted_has_failed() {
    use Found::{Bad, Good, Known};
    let one = Some("the one line or value that it found could not be read: no line: x y.");
    let many = Some("none of its 1500 lines or values could be read; the first: no line: x y.");
    for (what, found, failed) in [
        ("nothing at all", vec![], None),
        ("all good", vec![Good("wanted")], None),
        ("one bad", vec![Bad(Bearing::All)], one),
        ("many bad", (0..1_500).map(|_| Bad(Bearing::All)).collect(), many),
        ("good and bad", vec![Good("wanted"), Bad(Bearing::All)], None),
        (
            "good of what nobody wants",
            vec![Good("unwanted"), Bad(Bearing::readings(["unwanted", "wanted"]))],
            one,
        ),
        ("bad of what nobody wants", vec![Bad(Bearing::readings(["unwanted"]))], None),
        ("bad beside what is the same as before", vec![Known, Bad(Bearing::All)], None),
        ("bad and of no series", vec![Bad(Bearing::nothing())], None),
    ] {
        let mut batch = Batch::default();
        for found in found {
            match found {
                Good(name) => batch.push(gauge(name, "alice", 1)),
                Bad(bears_on) => batch.quarantine_of("x y", "no line", bears_on),
                Known => batch.known += 1,
            }
        }
        let said = batch.finish(at(NOW), &BTreeSet::from(["wanted"])).err().map(|error| error.0);
        let failed = failed.map(|words| format!("{words} Nothing of it counts; has its source changed?"));
        assert_eq!(said, failed, "{what}");
    }
}

#[test]
fn what_nobody_meters_withholds_nothing() {
    let mut batch = Batch::default();
    batch.push(gauge("wanted", "alice", 1));
    batch.quarantine_of("x", "y", Bearing::readings(["unwanted", "wanted"]));
    batch.problem_of("z", Bearing::readings(["wanted", "unwanted"]));
    batch.problem_of("z", Bearing::label("user", "bob"));
    batch.finish(at(NOW), &BTreeSet::from(["wanted"])).unwrap();
    assert_eq!(batch.quarantined[0].bears_on, Bearing::readings(["wanted"]));
    assert_eq!(batch.problems[0].bears_on, Bearing::readings(["wanted"]));
    assert_eq!(batch.problems[1].bears_on, Bearing::label("user", "bob"));
}

#[test]
fn what_is_read_and_billed_to_nobody_is_said() {
    let mut batch = Batch::default();
    // What is too much for memory is looked at as well.
    (0..IN_MEMORY).for_each(|_| batch.push(gauge("wanted", "alice", 1)));
    batch.note_unwanted(&BTreeSet::from(["wanted"]));
    assert_eq!(batch.notes, Vec::<String>::new());
    (0..12).for_each(|n| batch.push(gauge(&format!("other_{n:02}"), "alice", 1)));
    batch.note_unwanted(&BTreeSet::from(["wanted"]));
    assert_eq!(
        batch.notes,
        [
            "no meter wants other_00, other_01, other_02, other_03, other_04, other_05, other_06, other_07, other_08, other_09 \
             and 2 more: what they say is billed to nobody"
        ]
    );
}

#[test]
fn what_two_things_bear_on_together_is_never_less_than_either() {
    let series =
        |name: &str, user: &str| Bearing::series(name, &Labels::from([("user".to_owned(), user.to_owned())]));
    let mut both = series("a", "alice");
    both.join(series("b", "bob"));
    both.join(series("b", "bob"));
    let covers = |bearing: &Bearing, name: &str, user: &str| {
        bearing.covers(name, &Labels::from([("user".to_owned(), user.to_owned())]))
    };
    assert!(covers(&both, "a", "alice") && covers(&both, "b", "bob") && !covers(&both, "a", "bob"));
    assert!(matches!(&both, Bearing::Some(filters) if filters.len() == 2));
    // Hundreds are as good as all of their names.
    for n in 0..300 {
        both.join(series("a", &n.to_string()));
    }
    assert!(covers(&both, "a", "zoe") && covers(&both, "b", "bob") && !covers(&both, "c", "alice"));
    both.join(Bearing::All);
    assert_eq!(both, Bearing::All);
    let mut any_name = Bearing::Some(vec![SeriesFilter::default()]);
    any_name.join(Bearing::nothing());
    assert!(covers(&any_name, "c", "carol"));
}

/// What is odd about readings that no meter wants is shown, and is no sign of trouble; what may be anybody's is.
#[test]
fn what_nobody_meters_is_a_note() {
    let odd = |metered: &[&str]| {
        let mut batch = Batch::default();
        batch.push(gauge("level", "alice", 1));
        batch.quarantine_of("n NaN", "its value is NaN", Bearing::readings(["n"]));
        batch.quarantine_of("m or n", "it is odd", Bearing::readings(["m", "n"]));
        batch.quarantine_of("who knows", "it is odd", Bearing::All);
        batch.quarantine_of("told", "of a checkpoint", Bearing::nothing());
        batch.problem_of("the type of n is not told", Bearing::readings(["n"]));
        batch.problem_of("given up", Bearing::nothing());
        batch.finish(at(NOW), &metered.iter().copied().collect()).unwrap();
        let whats = batch.quarantined.iter().map(|bad| bad.what.clone()).collect::<Vec<_>>();
        let problems = batch.problems.iter().map(|problem| problem.text.clone()).collect::<Vec<_>>();
        (whats, problems, batch.notes)
    };
    let (whats, problems, notes) = odd(&["level", "m"]);
    assert_eq!(whats, ["m or n", "who knows", "told"]);
    assert_eq!(problems, ["given up"]);
    assert_eq!(
        notes,
        [
            "no meter wants what this is about: the type of n is not told",
            "no meter wants what this is about: its value is NaN: n NaN",
        ]
    );
    // Where no meter is known, all is wanted.
    let (whats, problems, notes) = odd(&[]);
    assert_eq!((whats.len(), problems.len(), notes.len()), (4, 2, 0));
}

#[test]
fn however_much_nobody_meters_the_notes_are_few() {
    let mut batch = Batch::default();
    batch.push(gauge("level", "alice", 1));
    for n in 0..1_500 {
        batch.quarantine_of(&n.to_string(), "its value is NaN", Bearing::readings(["n"]));
    }
    batch.finish(at(NOW), &BTreeSet::from(["level"])).unwrap();
    assert_eq!((batch.quarantined.len(), batch.unshown, batch.notes.len()), (0, 0, 11));
    assert_eq!(batch.notes[10], "and 991 more such things that no meter wants");
}
