//! States compared within one flow: what the machine does besides, and how the flow itself happens to run,
//! is the same for all of them.
//!
//! ```text
//!  one TCP flow ═══════════════════════════════════════════▶
//!               A │ C │ B │ C │ B │ A │ B │ C │ …    0.25 s each: bytes that arrived
//! ```
//!
//! Each slice begins by making its state, also where it is there already, so that the costs of switching are the
//! same for all; what arrives meanwhile does not count. Every round has another order, so that no state comes
//! always after the same one, or at the same moment of what somebody else does again and again.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::super::Scale;
use super::super::carry::Path;
use super::super::carry::flow::{Flow, Rates};

/// From a switch to the first byte that counts: the kernel frees what was replaced.
const SETTLE: Duration = Duration::from_millis(20);

/// What each state carries, by slice. `make` makes a state, by its number.
pub(super) async fn slices(
    path: &Path,
    states: usize,
    full: usize,
    scale: &Scale,
    make: impl AsyncFn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Rates>> {
    let mut measured = vec![Rates::default(); states];
    make(0).await?;
    let flow = Flow::start(path, 1, true).await?;
    let mut round: Vec<usize> = (0..states).collect();
    for _ in 0..scale.toggles(full) {
        round.shuffle(&mut rand::rng());
        for state in &round {
            make(*state).await?;
            tokio::time::sleep(SETTLE).await;
            measured[*state].push(&flow.watch(scale.toggle()).await?);
        }
    }
    flow.stop().await?;
    Ok(measured)
}
