//! Keeps a node's view so small that every client can take it, and says what was left out.
//!
//! A node may be in any number of networks, and each may have failed for a hundred peers: that is what grows.
//! Everything else of a view has a limit of its own. The facts of all networks come first, then their warnings,
//! then the failures.

use loden_proto::convert::beyond;
use loden_proto::v1::Node;
use prost::Message;

/// The largest view of a node, in bytes: half of what a page of them may have.
pub(super) const MOST: usize = 512 << 10;
/// What a field costs beside its value, in bytes: its tag and the length of what is no longer than [`MOST`].
const FIELD: usize = 1 + 3;
/// Room for the counts of a network or a node that are not there before something is left out, in bytes.
const COUNTS: usize = 2 * (1 + 5);

/// Leaves out of a view what makes it larger than `most` bytes.
pub(super) fn bound(node: &mut Node, most: usize) {
    if node.encoded_len() <= most {
        return;
    }
    let networks = std::mem::take(&mut node.networks);
    let mut room = Room(most.saturating_sub(node.encoded_len() + COUNTS));
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for mut network in networks {
        let more = (std::mem::take(&mut network.warnings), std::mem::take(&mut network.failures));
        // In order: what comes after one that did not fit would seem to be all there is.
        if node.networks_left_out == 0 && room.take(FIELD + network.encoded_len() + COUNTS) {
            node.networks.push(network);
            warnings.push(more.0);
            failures.push(more.1);
        } else {
            node.networks_left_out += 1;
        }
    }
    for (network, of) in node.networks.iter_mut().zip(warnings) {
        let left_out;
        (network.warnings, left_out) = room.fill(of, String::len);
        network.warnings_left_out += left_out;
    }
    for (network, of) in node.networks.iter_mut().zip(failures) {
        let left_out;
        (network.failures, left_out) = room.fill(of, Message::encoded_len);
        network.failures_left_out += left_out;
    }
}

/// How many bytes are left.
struct Room(usize);

impl Room {
    /// Takes so many if there are as many.
    const fn take(&mut self, bytes: usize) -> bool {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }

    /// The first of these for which there is room, and how many there are besides.
    fn fill<T>(&mut self, mut all: Vec<T>, size: impl Fn(&T) -> usize) -> (Vec<T>, u32) {
        let fit = all.iter().take_while(|one| self.take(FIELD + size(one))).count();
        let left_out = beyond(all.len(), fit);
        all.truncate(fit);
        (all, left_out)
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::v1::{NodeNetwork, PeerFailure};

    use super::*;

    fn node(networks: usize, failures: usize, text: usize) -> Node {
        let failure = |peer: usize| PeerFailure {
            node: format!("peer-{peer}"),
            message: "m".repeat(text),
            since: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 7 }),
        };
        let network = |number: usize| NodeNetwork {
            network: format!("networks/net-{number}"),
            subnets: vec![format!("10.{}.{}.0/24", number / 256, number % 256)],
            warnings: vec!["w".repeat(text)],
            failures: (0..failures).map(failure).collect(),
            ..Default::default()
        };
        Node {
            name: "nodes/a".to_owned(),
            networks: (0..networks).map(network).collect(),
            ..Default::default()
        }
    }

    /// What is there and what is said to be missing: networks, warnings, failures.
    fn counted(node: &Node) -> ([usize; 3], [usize; 3]) {
        let sum = |count: fn(&NodeNetwork) -> usize| node.networks.iter().map(count).sum::<usize>();
        let there = [
            node.networks.len(),
            sum(|network| network.warnings.len()),
            sum(|network| network.failures.len()),
        ];
        let missing = [
            node.networks_left_out as usize,
            sum(|network| network.warnings_left_out as usize),
            sum(|network| network.failures_left_out as usize),
        ];
        (there, missing)
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let mut small = node(3, 10, 100);
        let before = small.clone();
        bound(&mut small, before.encoded_len());
        assert_eq!(small, before);
    }

    #[test]
    fn failures_are_left_out_first_and_counted() {
        let mut large = node(50, 100, 1024);
        bound(&mut large, MOST);
        let size = large.encoded_len();
        assert!(size <= MOST && size > MOST * 9 / 10, "{size} bytes");
        let (there, missing) = counted(&large);
        assert_eq!((there[0], there[1]), (50, 50));
        assert_eq!(missing, [0, 0, 5000 - there[2]]);
        assert!(there[2] > 400 && large.networks[0].failures.len() == 100, "{there:?}");
    }

    #[test]
    fn networks_that_do_not_fit_are_counted_and_the_first_ones_are_there() {
        let mut large = node(20_000, 1, 10);
        bound(&mut large, MOST);
        assert!(large.encoded_len() <= MOST, "{} bytes", large.encoded_len());
        let (there, missing) = counted(&large);
        assert_eq!(there[0] + missing[0], 20_000);
        assert!(there[0] > 5000, "{there:?}");
        assert_eq!(large.networks.last().unwrap().network, format!("networks/net-{}", there[0] - 1));
    }

    #[test]
    fn whatever_the_limit_is_it_holds() {
        for most in [100, 1000, 10_000, 100_000] {
            let mut large = node(40, 30, 200);
            bound(&mut large, most);
            assert!(large.encoded_len() <= most, "{} of {most}", large.encoded_len());
        }
    }
}
