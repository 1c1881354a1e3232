//! A month as a curve: an SVG without script or style of its own, with its meaning in words for who can't see it.

use maud::{Markup, html};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

/// What a curve shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Curve {
    /// When (in thousandths of the month) it came to how much; in order.
    pub(super) points: Vec<(i64, Decimal)>,
    /// What Waldur holds: a line across.
    pub(super) holds: Option<Decimal>,
}

const HEIGHT: i64 = 200;
const WIDTH: i64 = 1000;

impl Curve {
    pub(super) fn svg(&self, words: &str) -> Markup {
        let amounts = self.points.iter().map(|(_, amount)| *amount).chain(self.holds);
        let top = amounts.max().filter(|top| *top > Decimal::ZERO).unwrap_or(Decimal::ONE);
        let height = |amount: Decimal| {
            // Some room above for the width of the line.
            let share =
                amount.checked_div(top).and_then(|share| share.checked_mul(Decimal::from(HEIGHT - 12)));
            HEIGHT - 4 - share.and_then(|share| share.round().to_i64()).unwrap_or(0).clamp(0, HEIGHT - 8)
        };
        // Between two points nothing is known but that it did not fall: a step.
        let mut path = format!("M0 {}", height(Decimal::ZERO));
        for (at, amount) in &self.points {
            path += &format!("H{} V{}", at.clamp(&0, &WIDTH), height(*amount));
        }
        html! {
            svg role="img" aria-label=(words) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                line class="axis" x1="0" x2=(WIDTH) y1=(HEIGHT - 2) y2=(HEIGHT - 2) {}
                @if let Some(holds) = self.holds {
                    line class="holds" x1="0" x2=(WIDTH) y1=(height(holds)) y2=(height(holds)) {}
                }
                path class="amount" d=(path) {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_to_its_top_and_never_leaves_the_picture() {
        let curve = Curve { points: vec![(100, 5.into()), (500, 10.into())], holds: Some(5.into()) };
        let svg = curve.svg("10.00 h <so far>").into_string();
        // 10 is the top: 196 - 188 = 8; 5 is half of it: 196 - 94 = 102.
        assert!(svg.contains("d=\"M0 196H100 V102H500 V8\""), "{svg}");
        assert!(svg.contains("y1=\"102\"") && svg.contains("10.00 h &lt;so far&gt;"), "{svg}");
        let empty = Curve::default().svg("nothing").into_string();
        assert!(empty.contains("d=\"M0 196\""), "{empty}");
        let huge = Curve { points: vec![(5000, Decimal::MAX)], holds: None }.svg("").into_string();
        assert!(huge.contains("H1000 V8"), "{huge}");
    }
}
