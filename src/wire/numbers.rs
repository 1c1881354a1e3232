//! Numbers in what people read: `12,000`, `1 amount`, `3 amounts`. It never decides what is said.

/// `12,000`
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 mistake`, `3 mistakes`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", plural(number))
}

/// The same of what there may be thousands of: `1 amount`, `2,000 amounts`.
pub fn count_many(number: usize, what: &str) -> String {
    format!("{} {what}{}", thousands(number), plural(number))
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}
