//! The processor time that was used, which other work of the machine does not change much.

use std::fs;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Of the thread that asks, exactly.
#[allow(dead_code, reason = "each bench uses one of them")]
pub(crate) fn of_thread() -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("nothing")?.parse()?))
}

/// Of a process (`self` or a number) with all its threads, without its children: in steps of 10 ms.
#[allow(dead_code, reason = "each bench uses one of them")]
pub(crate) fn of_process(process: &str) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name stands in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace().collect();
    Ok(Duration::from_millis(10 * (fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)))
}

/// Of all children that have ended, in steps of 10 ms.
#[allow(dead_code, reason = "each bench uses one of them")]
pub(crate) fn of_children() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace().collect();
    Ok(Duration::from_millis(10 * (fields[13].parse::<u64>()? + fields[14].parse::<u64>()?)))
}
