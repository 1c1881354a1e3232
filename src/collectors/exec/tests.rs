//! The keys of an exec collector. What it does with programs: tests/collectors_exec.rs.

use super::*;

fn problems(text: &str) -> Vec<String> {
    let (mut section, problems) = Section::parse(text);
    build(&mut section);
    section.finish();
    problems.list().iter().map(ToString::to_string).collect()
}

#[test]
fn a_program_alone_is_a_whole_configuration() {
    let (mut section, problems) = Section::parse("command: /bin/true\n");
    let collector = build(&mut section).unwrap();
    section.finish();
    assert_eq!(problems.list(), vec![]);
    assert_eq!(collector.scope(), "/bin/true");
    let debug = format!("{collector:?}");
    assert!(debug.contains("timeout: 1m") || debug.contains("timeout: 60s"), "{debug}");
    assert!(debug.contains("max_output: 16777216"), "{debug}");
}

#[test]
fn mistakes_are_told_all_at_once() {
    let text = "command: [/bin/true, a b, 3]\ntimeout: 60\nmax_output: 16MB\nenv: [A=1, B]\ncomand: x\n";
    assert_eq!(
        problems(text),
        [
            "line 2: timeout: `60` needs a unit: 60s for seconds, 60m for minutes",
            "line 3: max_output: `16MB` is not a number of bytes such as 1048576, 64KiB or 16MiB",
            "line 4: env: `B` must be NAME=value",
            "line 5: comand: unknown key `comand`; did you mean `command`?",
        ]
    );
    assert!(problems("timeout: 5s\n")[0].starts_with("`command` is missing"));
    for text in ["command: []", "command: ''", "command: ['', x]"] {
        assert!(problems(text)[0].contains("is empty"), "{text}: {:?}", problems(text));
    }
}

#[test]
fn sizes_are_read_exactly_and_have_a_bound() {
    assert_eq!(parse_size("1048576"), Ok(1_048_576));
    assert_eq!(parse_size("64KiB"), Ok(65_536));
    assert_eq!(parse_size("16 MiB"), Ok(16_777_216));
    assert_eq!(parse_size("1GiB"), Ok(1_073_741_824));
    for text in ["", "0", "-1", "1.5MiB", "2GiB", "16mb", "99999999999999999999", "KiB"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}
