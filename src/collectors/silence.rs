//! A source that has fallen silent: a program or a server that says nothing at all, and calls that a success, where it
//! showed counters or gauges before. It is told, and what there was has ended only when a second run agrees.
//!
//! What is remembered for it stands before the collector's own checkpoint, which it never changes.

use super::Batch;
use crate::metering::reading::Kind;

/// No program's own checkpoint begins so.
const MARK: &str = "#waldur-usage-agent:";

/// The stored checkpoint in its two parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The collector's own.
    pub own: Option<String>,
    heard: Heard,
}

/// What the runs before this one heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Heard {
    /// Nothing that could end.
    #[default]
    Nothing,
    /// Counters or gauges.
    Something,
    /// Counters or gauges, and then one run nothing at all.
    Silence,
}

impl Heard {
    fn word(self) -> Option<&'static str> {
        match self {
            Heard::Nothing => None,
            Heard::Something => Some("something"),
            Heard::Silence => Some("silence"),
        }
    }
}

impl Kept {
    pub fn read(stored: Option<String>) -> Kept {
        let Some(text) = stored else { return Kept::default() };
        let Some((word, own)) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n')) else {
            return Kept { own: Some(text), heard: Heard::Nothing };
        };
        let heard = [Heard::Something, Heard::Silence].into_iter().find(|heard| heard.word() == Some(word));
        // A first letter tells none from an empty one.
        let own = own.strip_prefix('=').map(str::to_owned);
        Kept { own, heard: heard.unwrap_or_default() }
    }

    /// The checkpoint to store after a run that left `own` behind.
    pub fn text(self, own: Option<String>) -> Option<String> {
        let own = own.or(self.own);
        match self.heard.word() {
            None => own,
            Some(word) => {
                Some(format!("{MARK}{word}\n{}", own.map(|own| format!("={own}")).unwrap_or_default()))
            }
        }
    }

    /// Takes a run that is whole. Where it is the first that heard nothing, it concludes nothing. Returns whether it is the
    /// second, which is believed: what there was has ended.
    pub fn judge(&mut self, batch: &mut Batch) -> bool {
        let can_end = |kind| matches!(kind, Kind::Counter | Kind::Gauge);
        let before = self.heard;
        let is_silent = batch.readings.is_empty() && batch.quarantined.is_empty() && batch.known == 0;
        self.heard = if batch.kinds().any(|(_, kind)| can_end(kind)) {
            Heard::Something
        } else if !is_silent {
            Heard::Nothing
        } else if !batch.problems.is_empty() {
            self.heard
        } else if self.heard == Heard::Something {
            batch.problem(
                "it saw nothing at all, where it saw counters or gauges before. Nothing has ended by that unless the next \
                 run sees nothing either; see whether its source still answers. If there is rightly nothing at times, say \
                 `allow_empty: true`",
            );
            Heard::Silence
        } else {
            Heard::Nothing
        };
        let is_believed = before == Heard::Silence && is_silent && self.heard == Heard::Nothing;
        if is_believed {
            batch.notes.push(
                "it saw nothing at all twice in a row: the counters and gauges that it saw before have ended with this run"
                    .to_owned(),
            );
        }
        is_believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::reading::Reading;

    fn run(kept: &mut Kept, kinds: &[Kind]) -> usize {
        let mut batch = Batch::default();
        for kind in kinds {
            let name = format!("{kind:?}");
            batch.push(Reading::new(&name, *kind, 1.into(), "2026-11-05T10:00:00Z".parse().unwrap()));
        }
        let is_believed = kept.judge(&mut batch);
        assert_eq!(batch.notes.len(), usize::from(is_believed));
        let problems = batch.problems.len();
        // A restart between any two runs loses nothing.
        *kept = Kept::read(std::mem::take(kept).text(None));
        problems
    }

    #[test]
    fn the_first_silence_is_told_and_the_second_is_believed() {
        for kind in [Kind::Counter, Kind::Gauge] {
            let mut kept = Kept::default();
            let told: Vec<usize> = [&[][..], &[kind], &[], &[], &[], &[kind], &[], &[kind], &[], &[]]
                .into_iter()
                .map(|kinds| run(&mut kept, kinds))
                .collect();
            assert_eq!(told, [0, 0, 1, 0, 0, 0, 1, 0, 1, 0]);
        }
    }

    #[test]
    fn a_gauge_that_came_after_thousands_of_jobs_is_missed() {
        let mut kept = Kept::default();
        let mut kinds = vec![Kind::Delta; crate::collectors::IN_MEMORY];
        kinds.push(Kind::Gauge);
        assert_eq!([run(&mut kept, &kinds), run(&mut kept, &[]), run(&mut kept, &[])], [0, 1, 0]);
    }

    #[test]
    fn what_cannot_end_is_not_missed() {
        let mut kept = Kept::default();
        assert_eq!(run(&mut kept, &[Kind::Delta]) + run(&mut kept, &[]), 0);
        // What was there has ended with a run that saw something else.
        assert_eq!(run(&mut kept, &[Kind::Gauge]) + run(&mut kept, &[Kind::Delta]) + run(&mut kept, &[]), 0);
    }

    #[test]
    fn a_collectors_own_checkpoint_stays_as_it_is() {
        for own in [None, Some(""), Some("job 7; ö\nand more"), Some("=")] {
            let own = own.map(str::to_owned);
            assert_eq!(Kept::read(own.clone()), Kept { own: own.clone(), heard: Heard::Nothing });
            for heard in [Heard::Nothing, Heard::Something, Heard::Silence] {
                let kept = Kept { own: own.clone(), heard };
                assert_eq!(Kept::read(kept.clone().text(None)), kept);
                assert_eq!(Kept::read(kept.text(Some("new".to_owned()))).own.as_deref(), Some("new"));
            }
        }
    }
}
