//! Neighbours that do not answer: believed at once, forgiven only after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// How long a neighbour must have answered: one that comes and goes would move
/// its packets to and fro.
const FORGIVEN: Duration = Duration::from_secs(30);

/// The silent, and since when they have answered again.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<IpAddr, Option<Instant>>);

impl Silence {
    /// Takes what the kernel told; true when the neighbour counts as silent
    /// from now on.
    pub(super) fn heard(&mut self, address: IpAddr, answers: bool, now: Instant) -> bool {
        if answers {
            if let Some(since) = self.0.get_mut(&address) {
                since.get_or_insert(now);
            }
            return false;
        }
        self.0.insert(address, None).is_none()
    }

    /// When somebody may be forgiven next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().flatten().min().map(|since| *since + FORGIVEN)
    }

    /// Those who are forgiven now.
    pub(super) fn forgive(&mut self, now: Instant) -> Vec<IpAddr> {
        let forgiven = |since: Option<Instant>| since.is_some_and(|since| since + FORGIVEN <= now);
        let (over, silent): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.0).into_iter().partition(|(_, since)| forgiven(*since));
        self.0 = silent;
        over.into_keys().collect()
    }

    /// Who counts as silent.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_believed_at_once_and_forgiven_late() {
        let mut silence = Silence::default();
        let (address, begin) = ("192.0.2.2".parse().unwrap(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(!silence.heard(address, true, begin), "nobody waits for it");
        assert!(silence.heard(address, false, begin));
        assert!(!silence.heard(address, false, begin), "that is known");
        assert_eq!(silence.due(), None);

        silence.heard(address, true, after(10));
        silence.heard(address, true, after(20));
        assert_eq!(silence.due(), Some(after(40)), "since the first answer");
        silence.heard(address, false, after(30));
        assert_eq!(silence.due(), None, "it has to begin again");
        assert_eq!(silence.addresses(), BTreeSet::from([address]));

        silence.heard(address, true, after(50));
        assert!(silence.forgive(after(79)).is_empty());
        assert_eq!(silence.forgive(after(80)), [address]);
        assert!(silence.addresses().is_empty());
    }
}
