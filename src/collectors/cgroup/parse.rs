//! What the kernel writes into cgroup files, as numbers. Pure: text in, values out.
//!
//! Nothing here guesses: a number that is not one is an error, because a zero in its place would be billed.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

/// Why a number is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Not what the kernel writes, as far as is known here.
    Malformed(String),
    /// A number that can't be what was used, or two where one is.
    Impossible(String),
}

impl Wrong {
    fn of(self, what: impl std::fmt::Display) -> Wrong {
        match self {
            Wrong::Malformed(why) => Wrong::Malformed(format!("{what}: {why}")),
            Wrong::Impossible(why) => Wrong::Impossible(format!("{what}: {why}")),
        }
    }
}

/// No machine counts so far; a count that fell below zero does, by so much less.
const BELOW_ZERO: u64 = u64::MAX - (1 << 20);

/// A file with a single number in it (`memory.current`, `pids.current`, `cpuacct.usage`).
pub(super) fn number(text: &str) -> Result<u64, Wrong> {
    let text = text.trim();
    match text.parse() {
        Ok(BELOW_ZERO..) => {
            Err(Wrong::Impossible(format!("{text} is a count that fell below zero (2^64 less a little)")))
        }
        Ok(number) => Ok(number),
        Err(_) => Err(Wrong::Malformed(format!("`{}` is not a whole number", short(text)))),
    }
}

/// The number beside `key` in a file of `key number` lines (`cpu.stat`, `memory.stat`); `None` if it is not there.
pub(super) fn keyed(text: &str, key: &str) -> Result<Option<u64>, Wrong> {
    let mut found = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(key) {
            let value =
                words.next().ok_or_else(|| Wrong::Malformed(format!("`{key}` has no number beside it")))?;
            let value = number(value).map_err(|wrong| wrong.of(format!("`{key}`")))?;
            if let Some(other) = found.filter(|other| *other != value) {
                return Err(twice(other, value).of(format!("`{key}`")));
            }
            found = Some(value);
        }
    }
    Ok(found)
}

fn twice(one: u64, other: u64) -> Wrong {
    Wrong::Impossible(format!(
        "it is there twice, as {one} and {other}: which is meant can't be known, so neither counts"
    ))
}

/// One count of a device: nothing yet, a number, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Count {
    #[default]
    None,
    One(u64),
    Twice,
}

impl Count {
    fn take(&mut self, value: u64) -> Result<(), Wrong> {
        match *self {
            Count::None => *self = Count::One(value),
            Count::One(other) if other != value => {
                *self = Count::Twice;
                return Err(twice(other, value));
            }
            Count::One(_) | Count::Twice => {}
        }
        Ok(())
    }

    fn one(self) -> Option<u64> {
        match self {
            Count::One(value) => Some(value),
            Count::None | Count::Twice => None,
        }
    }
}

/// What one block device did for a group since the group or the device came: bytes and operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Transfers {
    pub(super) read_bytes: Option<u64>,
    pub(super) write_bytes: Option<u64>,
    pub(super) read_ops: Option<u64>,
    pub(super) write_ops: Option<u64>,
}

/// `major:minor` and what it did.
pub(super) type Devices = BTreeMap<String, Transfers>;

/// What one file says of devices: `io.stat` all, a file of version 1 a half.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IoStat {
    pub(super) devices: Devices,
    /// Rows of devices that have no number: `(unknown)` is what the kernel calls those that it hides (the paths of a
    /// multipath device, whose transfers are counted at the device itself).
    pub(super) unnumbered: usize,
    /// What can't be read, and of which device it is, if that is known.
    pub(super) odd: Vec<(Option<String>, Wrong)>,
}

/// Version 2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. Some kernels leave out the line
/// break after a device that did nothing (`8:16 8:0 rbytes=1 ...`), so devices are told by their form.
pub(super) fn io_stat(text: &str) -> IoStat {
    let mut stat = IoStat::default();
    let mut counts: BTreeMap<String, [Count; 4]> = BTreeMap::new();
    let malformed = |why: String| (None, Wrong::Malformed(why));
    for line in text.lines() {
        // Whose the numbers are: `None` before any device, or behind one that has no number.
        let mut current = None;
        let mut skipped = false;
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                let named = device(word).ok();
                if named.is_none() && current.is_some() && word != UNNUMBERED {
                    // A remark on a device (`254:0 none`), and none of its numbers.
                    continue;
                }
                current = named;
                skipped = current.is_none();
                match word {
                    _ if !skipped => {}
                    UNNUMBERED => stat.unnumbered += 1,
                    _ => {
                        stat.odd.push(malformed(format!("`{}` is no device number such as 8:0", short(word))))
                    }
                }
                continue;
            };
            let Some(device) = &current else {
                if !skipped {
                    skipped = true;
                    stat.odd.push(malformed(format!("`{}` belongs to no device", short(word))));
                }
                continue;
            };
            let [rbytes, wbytes, rios, wios] = counts.entry(device.clone()).or_default();
            let count = match key {
                "rbytes" => rbytes,
                "wbytes" => wbytes,
                "rios" => rios,
                "wios" => wios,
                _ => continue,
            };
            if let Err(wrong) = number(value).and_then(|value| count.take(value)) {
                stat.odd.push((Some(device.clone()), wrong.of(format!("{device} `{key}`"))));
            }
        }
    }
    stat.devices = counts.into_iter().map(|(device, counts)| (device, Transfers::of(counts))).collect();
    stat
}

/// Version 1's `blkio.throttle.io_service_bytes` (`is_bytes`) or `io_serviced`: `8:0 Read 123`, and a total that nobody needs.
pub(super) fn blkio(text: &str, is_bytes: bool) -> IoStat {
    let mut stat = IoStat::default();
    let mut counts: BTreeMap<String, [Count; 4]> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, operation @ ("Read" | "Write"), value] = words[..] else { continue };
        let name = match device(name) {
            Ok(name) => name,
            Err(_) if name == UNNUMBERED => {
                stat.unnumbered += usize::from(operation == "Read" && is_bytes);
                continue;
            }
            Err(why) => {
                stat.odd.push((None, Wrong::Malformed(why)));
                continue;
            }
        };
        let [rbytes, wbytes, rios, wios] = counts.entry(name.clone()).or_default();
        let count = match (operation, is_bytes) {
            ("Read", true) => rbytes,
            (_, true) => wbytes,
            ("Read", false) => rios,
            (_, false) => wios,
        };
        if let Err(wrong) = number(value).and_then(|value| count.take(value)) {
            stat.odd.push((Some(name.clone()), wrong.of(format!("{name} {operation}"))));
        }
    }
    stat.devices = counts.into_iter().map(|(device, counts)| (device, Transfers::of(counts))).collect();
    stat
}

impl Transfers {
    fn of([rbytes, wbytes, rios, wios]: [Count; 4]) -> Transfers {
        Transfers {
            read_bytes: rbytes.one(),
            write_bytes: wbytes.one(),
            read_ops: rios.one(),
            write_ops: wios.one(),
        }
    }

    /// Both halves of version 1.
    pub(super) fn join(&mut self, other: Transfers) {
        self.read_bytes = self.read_bytes.or(other.read_bytes);
        self.write_bytes = self.write_bytes.or(other.write_bytes);
        self.read_ops = self.read_ops.or(other.read_ops);
        self.write_ops = self.write_ops.or(other.write_ops);
    }
}

/// What the kernel calls a device that it hides.
const UNNUMBERED: &str = "(unknown)";

fn device(word: &str) -> Result<String, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match word.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Ok(word.to_owned()),
        _ => Err(format!("`{}` is no device number such as 8:0", short(word))),
    }
}

/// The group that /proc/self/cgroup names for a version 1 controller, or for version 2 (`None`).
pub(super) fn own_group<'a>(proc_self_cgroup: &'a str, controller: Option<&str>) -> Option<&'a str> {
    proc_self_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match controller {
            None => id == "0" && controllers.is_empty(),
            Some(controller) => controllers.split(',').any(|name| name == controller),
        };
        found.then_some(path)
    })
}

/// A systemd unit name as people write it: `\x2d` is `-` again. What is not such an escape stays as it is.
pub(super) fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The user whose group this is: `user-1000.slice` or `user@1000.service`, anywhere in the path.
pub(super) fn uid_in(path: &str) -> Option<u32> {
    path.split('/').find_map(|part| {
        let slice = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
        let service = part.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
        let digits = slice.or(service)?;
        // "+5" would parse as a number; it is no uid.
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    })
}

/// A count of 10^-`places` seconds, exactly, in seconds.
pub(super) fn seconds(count: u64, places: u32) -> Decimal {
    // 20 digits at most, and a scale of 6 or 9, always fit; if ever not, the whole seconds do.
    Decimal::try_from_i128_with_scale(i128::from(count), places)
        .unwrap_or_else(|_| Decimal::from(count / 10_u64.pow(places)))
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_stat_is_read_by_key_and_exactly() {
        let text = "usage_usec 297267932\nuser_usec 256252672\nsystem_usec 41015260\nnice_usec 0\n";
        assert_eq!(keyed(text, "usage_usec"), Ok(Some(297_267_932)));
        assert_eq!(keyed(text, "usage"), Ok(None));
        assert_eq!(seconds(297_267_932, 6).to_string(), "297.267932");
        assert_eq!(seconds(302_440_068_727, 9).to_string(), "302.440068727");
        assert_eq!(seconds(u64::MAX, 9).to_string(), "18446744073.709551615");
    }

    #[test]
    fn a_number_that_is_none_is_an_error_and_never_zero() {
        let malformed = |why: &str| Err(Wrong::Malformed(why.to_owned()));
        assert_eq!(number("123\n"), Ok(123));
        assert_eq!(number("max\n"), malformed("`max` is not a whole number"));
        assert_eq!(number(""), malformed("`` is not a whole number"));
        let malformed = |why: &str| Err(Wrong::Malformed(why.to_owned()));
        assert_eq!(
            keyed("usage_usec -5", "usage_usec"),
            malformed("`usage_usec`: `-5` is not a whole number")
        );
        assert_eq!(keyed("usage_usec", "usage_usec"), malformed("`usage_usec` has no number beside it"));
    }

    #[test]
    fn io_stat_tells_devices_apart_even_where_a_line_break_is_missing() {
        let text =
            "8:16 8:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n253:0 rbytes=5\n";
        let devices = io_stat(text).devices;
        assert_eq!(devices.len(), 2);
        assert_eq!(
            devices["8:0"],
            Transfers {
                read_bytes: Some(1_459_200),
                write_bytes: Some(314_773_504),
                read_ops: Some(192),
                write_ops: Some(353)
            }
        );
        assert_eq!(devices["253:0"], Transfers { read_bytes: Some(5), ..Transfers::default() });
    }

    #[test]
    fn what_is_odd_in_io_stat_costs_its_own_device_and_no_other() {
        let good = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n";
        let odd = |device: Option<&str>, why: &str| {
            vec![(device.map(str::to_owned), Wrong::Malformed(why.to_owned()))]
        };
        for (line, unnumbered, told) in [
            ("", 0, vec![]),
            ("8:16 ", 0, vec![]),
            ("7:7 7:6 7:5 8:16", 0, vec![]),
            ("254:0 none", 0, vec![]),
            ("8:16 none 254:0 none", 0, vec![]),
            ("254:0 none rbytes=9", 0, vec![]),
            ("254:0 none (unknown) rbytes=9", 1, vec![]),
            ("(unknown) rbytes=7 wbytes=0 rios=1 wios=0 dbytes=0 dios=0", 1, vec![]),
            (
                "(unknown)(unknown) rbytes=7",
                0,
                odd(None, "`(unknown)(unknown)` is no device number such as 8:0"),
            ),
            ("8:16 rbytes=x wbytes=5", 0, odd(Some("8:16"), "8:16 `rbytes`: `x` is not a whole number")),
            ("8:16 rbytes=", 0, odd(Some("8:16"), "8:16 `rbytes`: `` is not a whole number")),
            ("rbytes=1 wbytes=2", 0, odd(None, "`rbytes=1` belongs to no device")),
            ("sda rbytes=1 wbytes=2", 0, odd(None, "`sda` is no device number such as 8:0")),
        ] {
            for text in [format!("{line}\n{good}"), format!("{good}{line}\n")] {
                let stat = io_stat(&text);
                assert_eq!(stat.devices["8:0"].read_bytes, Some(1), "{text}");
                assert_eq!((stat.unnumbered, &stat.odd), (unnumbered, &told), "{text}");
                assert_eq!(stat.devices.get("8:16").and_then(|device| device.read_bytes), None, "{text}");
            }
        }
    }

    #[test]
    fn blkio_takes_reads_and_writes_and_leaves_the_totals() {
        let text =
            "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Async 0\n8:0 Total 12288\nTotal 12288\n";
        let half = |read, write| Transfers { read_bytes: read, write_bytes: write, ..Transfers::default() };
        assert_eq!(
            blkio(text, true).devices,
            Devices::from([("8:0".to_owned(), half(Some(4096), Some(8192)))])
        );
        assert_eq!(blkio("Total 0\n", true), IoStat::default());
        // What is odd costs its device, or nothing.
        let odd = "8:16 Read many\n8:16 Write 5\n(unknown) Read 7\n(unknown) Write 7\nsda Read 1\n";
        let stat = blkio(&format!("{odd}{text}"), true);
        assert_eq!(stat.devices["8:0"], half(Some(4096), Some(8192)));
        assert_eq!(stat.devices["8:16"], half(None, Some(5)));
        assert_eq!(stat.unnumbered, 1);
        let told: Vec<_> =
            stat.odd.into_iter().map(|(device, wrong)| (device.unwrap_or_default(), wrong)).collect();
        assert_eq!(
            told,
            [
                ("8:16".to_owned(), Wrong::Malformed("8:16 Read: `many` is not a whole number".to_owned())),
                (String::new(), Wrong::Malformed("`sda` is no device number such as 8:0".to_owned())),
            ]
        );
    }

    /// Whichever of the two stands first; the same twice is one.
    #[test]
    fn two_values_of_one_thing_are_none() {
        let twice = |one: u64, other: u64| {
            format!(
                "it is there twice, as {one} and {other}: which is meant can't be known, so neither counts"
            )
        };
        for (one, other) in [(1, 5), (5, 1)] {
            let text = format!("usage_usec {one}\nuser_usec 3\nusage_usec {other}\nuser_usec 3\n");
            let why = format!("`usage_usec`: {}", twice(one, other));
            assert_eq!(keyed(&text, "usage_usec"), Err(Wrong::Impossible(why)));
            assert_eq!(keyed(&text, "user_usec"), Ok(Some(3)));
            for text in [
                format!(
                    "8:0 rbytes={one} wbytes=7\n8:16 rbytes=9\n8:0 rbytes={other} wbytes=7\n8:0 rbytes={one}\n"
                ),
                format!("8:0 rbytes={one} rbytes={other} wbytes=7\n8:16 rbytes=9\n"),
            ] {
                let IoStat { devices, odd, .. } = io_stat(&text);
                assert_eq!(
                    devices["8:0"],
                    Transfers { write_bytes: Some(7), ..Transfers::default() },
                    "{text}"
                );
                assert_eq!(devices["8:16"].read_bytes, Some(9));
                let why = format!("8:0 `rbytes`: {}", twice(one, other));
                assert_eq!(odd, [(Some("8:0".to_owned()), Wrong::Impossible(why))]);
            }
            let stat = blkio(&format!("8:0 Read {one}\n8:0 Write 7\n8:0 Read {other}\n"), false);
            assert_eq!(stat.devices["8:0"], Transfers { write_ops: Some(7), ..Transfers::default() });
            assert_eq!(stat.odd.len(), 1);
        }
    }

    #[test]
    fn a_count_that_fell_below_zero_is_none() {
        for text in ["18446744073709551615", "18446744073709551612\n", "18446744073708503039"] {
            let why = format!("{} is a count that fell below zero (2^64 less a little)", text.trim());
            assert_eq!(number(text), Err(Wrong::Impossible(why)), "{text}");
        }
        assert_eq!(number("18446744073708503038"), Ok(18_446_744_073_708_503_038));
        assert_eq!(number("9223372036854771712"), Ok(9_223_372_036_854_771_712));
    }

    #[test]
    fn the_own_group_is_found_by_controller() {
        let text = "4:memory:/docker/ab\n2:cpu,cpuacct:/docker/cd\n1:name=systemd:/x:y\n0::/system.slice/a.service\n";
        assert_eq!(own_group(text, Some("cpuacct")), Some("/docker/cd"));
        assert_eq!(own_group(text, Some("memory")), Some("/docker/ab"));
        assert_eq!(own_group(text, Some("name=systemd")), Some("/x:y"));
        assert_eq!(own_group(text, None), Some("/system.slice/a.service"));
        assert_eq!(own_group(text, Some("pids")), None);
    }

    #[test]
    fn unit_names_are_unescaped_as_systemd_does() {
        assert_eq!(unescape(r"system-my\x2dapp.slice"), "system-my-app.slice");
        assert_eq!(unescape(r"dev-\xc3\xb6.device"), "dev-ö.device");
        assert_eq!(unescape(r"odd\x2"), r"odd\x2");
        assert_eq!(unescape(r"not-text\xff"), r"not-text\xff");
    }

    #[test]
    fn the_user_is_read_from_any_part_of_the_path() {
        assert_eq!(uid_in("user.slice/user-1000.slice"), Some(1000));
        assert_eq!(uid_in("user.slice/user-1000.slice/session-3.scope"), Some(1000));
        assert_eq!(uid_in("x/user@65534.service/app.slice"), Some(65534));
        assert_eq!(uid_in("user.slice"), None);
        assert_eq!(uid_in("user-.slice"), None);
        assert_eq!(uid_in("user-+5.slice"), None);
        assert_eq!(uid_in("user-99999999999.slice"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in any::<String>()) {
            let _ = (number(&text), keyed(&text, "usage_usec"), io_stat(&text), blkio(&text, true));
            let _ = (own_group(&text, None), own_group(&text, Some("memory")), unescape(&text), uid_in(&text));
        }

        #[test]
        fn nothing_like_a_cgroup_file_makes_a_parser_panic(text in r"([0-9]{1,3}:[0-9]{0,3}|rbytes=[0-9-]{0,22}|Read|\\x[0-9a-g]{0,2}|[ \n=:/])*") {
            let _ = (number(&text), keyed(&text, "Read"), io_stat(&text), blkio(&text, true));
            let _ = (own_group(&text, None), unescape(&text), uid_in(&text));
        }
    }
}
