//! What the kernel writes into cgroup files, as numbers. Pure: text in, values out.
//!
//! Nothing here guesses: a number that is not one is an error, because a zero in its place would be billed.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

/// A file with a single number in it (`memory.current`, `pids.current`, `cpuacct.usage`).
pub(super) fn number(text: &str) -> Result<u64, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("`{}` is not a whole number", short(text)))
}

/// The number beside `key` in a file of `key number` lines (`cpu.stat`, `memory.stat`); `None` if it is not there.
pub(super) fn keyed(text: &str, key: &str) -> Result<Option<u64>, String> {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(key) {
            let value = words.next().ok_or_else(|| format!("`{key}` has no number beside it"))?;
            return number(value).map(Some).map_err(|why| format!("`{key}`: {why}"));
        }
    }
    Ok(None)
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

/// Reads and writes by device.
pub(super) type ReadsAndWrites = BTreeMap<String, (Option<u64>, Option<u64>)>;

/// What `io.stat` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IoStat {
    pub(super) devices: Devices,
    /// Rows of devices that have no number: `(unknown)` is what the kernel calls those that it hides (the paths of a
    /// multipath device, whose transfers are counted at the device itself).
    pub(super) unnumbered: usize,
    /// What can't be read, and of which device it is, if that is known.
    pub(super) odd: Vec<(Option<String>, String)>,
}

/// Version 2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. Some kernels leave out the line
/// break after a device that did nothing (`8:16 8:0 rbytes=1 ...`), so devices are told by their form.
pub(super) fn io_stat(text: &str) -> IoStat {
    let mut stat = IoStat::default();
    for line in text.lines() {
        // Whose the numbers are: `None` before any device, or behind one that has no number.
        let mut current = None;
        let mut skipped = false;
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                current = device(word).ok();
                skipped = current.is_none();
                match word {
                    _ if !skipped => {}
                    "(unknown)" => stat.unnumbered += 1,
                    _ => stat.odd.push((None, format!("`{}` is no device number such as 8:0", short(word)))),
                }
                continue;
            };
            let Some(device) = &current else {
                if !skipped {
                    skipped = true;
                    stat.odd.push((None, format!("`{}` belongs to no device", short(word))));
                }
                continue;
            };
            let transfers: &mut Transfers = stat.devices.entry(device.clone()).or_default();
            let count = match key {
                "rbytes" => &mut transfers.read_bytes,
                "wbytes" => &mut transfers.write_bytes,
                "rios" => &mut transfers.read_ops,
                "wios" => &mut transfers.write_ops,
                _ => continue,
            };
            match number(value) {
                Ok(number) => *count = Some(number),
                Err(why) => stat.odd.push((Some(device.clone()), format!("{device} `{key}`: {why}"))),
            }
        }
    }
    stat
}

/// Version 1's `blkio.throttle.io_service_bytes` (or `io_serviced`): `8:0 Read 123`, and a total that nobody needs.
pub(super) fn blkio(text: &str) -> Result<ReadsAndWrites, String> {
    let mut devices = ReadsAndWrites::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, operation @ ("Read" | "Write"), value] = words[..] else { continue };
        let count = number(value).map_err(|why| format!("{} {operation}: {why}", short(name)))?;
        let entry = devices.entry(device(name)?).or_default();
        if operation == "Read" { entry.0 = Some(count) } else { entry.1 = Some(count) }
    }
    Ok(devices)
}

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
        assert_eq!(number("123\n"), Ok(123));
        assert_eq!(number("max\n"), Err("`max` is not a whole number".to_owned()));
        assert_eq!(number(""), Err("`` is not a whole number".to_owned()));
        assert_eq!(
            keyed("usage_usec -5", "usage_usec").unwrap_err(),
            "`usage_usec`: `-5` is not a whole number"
        );
        assert_eq!(keyed("usage_usec", "usage_usec").unwrap_err(), "`usage_usec` has no number beside it");
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
        let odd = |device: Option<&str>, why: &str| vec![(device.map(str::to_owned), why.to_owned())];
        for (line, unnumbered, told) in [
            ("", 0, vec![]),
            ("8:16 ", 0, vec![]),
            ("7:7 7:6 7:5 8:16", 0, vec![]),
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
        assert_eq!(blkio(text).unwrap(), BTreeMap::from([("8:0".to_owned(), (Some(4096), Some(8192)))]));
        assert_eq!(blkio("Total 0\n").unwrap(), BTreeMap::new());
        assert!(blkio("8:0 Read many\n").is_err());
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
            let _ = (number(&text), keyed(&text, "usage_usec"), io_stat(&text), blkio(&text));
            let _ = (own_group(&text, None), own_group(&text, Some("memory")), unescape(&text), uid_in(&text));
        }

        #[test]
        fn nothing_like_a_cgroup_file_makes_a_parser_panic(text in r"([0-9]{1,3}:[0-9]{0,3}|rbytes=[0-9-]{0,22}|Read|\\x[0-9a-g]{0,2}|[ \n=:/])*") {
            let _ = (number(&text), keyed(&text, "Read"), io_stat(&text), blkio(&text));
            let _ = (own_group(&text, None), unescape(&text), uid_in(&text));
        }
    }
}
