//! In what order and how many at once: never two calls of one resource, and nothing decided long before its call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Cycle, CycleError};

/// Works on items of resources in the order given: never on two of one resource at once, and on no more resources at once
/// than calls may be under way.
/// So what is decided before a call (the guard above all) is decided when its turn has come: in a queue behind ten
/// thousand others it would be hours old, and the call would land in the next month.
pub(super) async fn in_turns<T, W>(
    cycle: Arc<Cycle>,
    what: &'static str,
    due: Vec<(Uuid, T)>,
    work: impl Fn(Arc<Cycle>, T) -> W + Clone + Send + 'static,
) -> Result<(), CycleError>
where
    T: Ord + Send + 'static,
    W: Future<Output = Result<(), CycleError>> + Send,
{
    let stage = cycle.submitter.progress.stage(what, due.len());
    let mut groups: BTreeMap<Uuid, BTreeSet<T>> = BTreeMap::new();
    let mut order = Vec::new();
    for (resource, item) in due {
        let group = groups.entry(resource).or_default();
        if group.is_empty() {
            order.push(resource);
        }
        group.insert(item);
    }
    let mut waiting = order.into_iter().filter_map(|resource| groups.remove(&resource));
    let mut tasks = JoinSet::new();
    let mut first = Ok(());
    loop {
        // As many as may be under way now: that changes with how the server answers.
        while tasks.len() < cycle.submitter.client.calls_at_once() {
            let Some(items) = waiting.next() else { break };
            let (cycle, work, stage) = (cycle.clone(), work.clone(), stage.clone());
            tasks.spawn(async move {
                let mut first = Ok(());
                for item in items {
                    first = first.and(work(cycle.clone(), item).await);
                    stage.step();
                }
                first
            });
        }
        match tasks.join_next().await {
            None => return first,
            Some(Ok(result)) => first = first.and(result),
            Some(Err(error)) => tracing::error!("A submission task ended unexpectedly: {error}"),
        }
    }
}
