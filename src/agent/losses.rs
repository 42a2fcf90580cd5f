//! What an agent loses, by kind: told when it grows, each kind at most once a minute with what was lost since, and
//! summed at the end by who runs it.

use tracing::warn;

use super::growth::Growth;

/// One kind of loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// Its name for programs: `samples`.
    pub kind: &'static str,
    /// How much since the agent began; it never shrinks.
    pub count: u64,
    /// What follows the number: what was lost, and why.
    pub what: &'static str,
}

impl Loss {
    /// `count` of `kind`, which is called `what`.
    pub(super) fn new(kind: &'static str, count: u64, what: &'static str) -> Self {
        Self { kind, count, what }
    }
}

/// How much of each kind was told.
#[derive(Debug, Default)]
pub(super) struct LossLog {
    /// In the order of the losses: some dozen.
    growths: Vec<Growth>,
}

impl LossLog {
    /// Tells what has grown. The kinds of `losses` and their order are the same at each call.
    pub(super) fn tell(&mut self, losses: &[Loss], now_ns: u64) {
        self.growths.resize(losses.len(), Growth::default());
        for (growth, Loss { kind, count: total, what }) in self.growths.iter_mut().zip(losses) {
            if let Some(count) = growth.due(*total, now_ns) {
                warn!(loss = kind, count, total, "{count} {what}");
            }
        }
    }
}
