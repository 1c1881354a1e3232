//! Lengths of time as people write them: `30s`, `5m`, `1h30m`, `2d`.

use jiff::SignedDuration;

/// Reads a positive duration made of whole numbers with the units s, m, h and d, such as `1h30m`.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let bad = || format!("`{text}` is not a length of time such as 30s, 5m, 1h30m or 2d");
    let mut seconds: i64 = 0;
    let mut digits = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let count: i64 = digits.parse().map_err(|_| bad())?;
        seconds = count.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(bad)?;
        digits.clear();
    }
    // A hundred years are enough for anybody, and keep arithmetic on instants in range.
    if !digits.is_empty() || seconds <= 0 || seconds > 100 * 366 * 86_400 {
        return Err(bad());
    }
    Ok(SignedDuration::from_secs(seconds))
}
