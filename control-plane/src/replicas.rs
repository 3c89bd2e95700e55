//! The other replicas of this control plane: what each says of itself, and how many clients one has too many.
//!
//! ```text
//! each replica ──Note──▶ the others, as they said last ──▶ excess ──▶ so many are asked to come back elsewhere
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// So many more than its share a replica may always have: nobody is moved for them.
const SMALL: u64 = 2;

/// What a replica tells the others of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Connections of nodes that it serves. Those that were asked to go are none of them.
    pub clients: u64,
    /// False while it drains or is not ready.
    pub serves: bool,
    /// Whether it gives new subnets: not just after its start, when its store may be an old copy.
    pub settled: bool,
    /// Nodes that have programmed everything, as they have told it.
    pub converged: u64,
    /// Watches that it serves.
    pub watches: u64,
    /// Nodes that it has refused a lease.
    pub refused: u64,
    /// Nodes that it has told to wait for a lease.
    pub waiting: u64,
    /// Where the others reach it, if it says so.
    pub address: Option<String>,
    /// Who has knocked at it, while that counts: see [`crate::knocks`].
    pub knocked: Option<HeardKnock>,
}

/// Somebody has knocked at a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardKnock {
    /// Where the last one came from.
    pub last: SocketAddr,
    /// How long ago that was.
    pub seconds_ago: u64,
    /// From how many addresses they came.
    pub hosts: usize,
}

/// Another replica, as it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its name among all.
    pub name: String,
    /// What it said.
    pub note: Note,
}

/// The other replicas, as they said last.
pub type Others = watch::Receiver<Arc<[Replica]>>;

/// No other one, for ever.
#[must_use]
pub fn alone() -> Others {
    watch::channel(Arc::default()).1
}

/// Whether clients have somewhere else to go.
#[must_use]
pub fn any_serves(others: &[Replica]) -> bool {
    others.iter().any(|other| other.note.serves)
}

/// Whether one gives new subnets: then the store is no old copy.
#[must_use]
pub fn any_settled(others: &[Replica]) -> bool {
    others.iter().any(|other| other.note.serves && other.note.settled)
}

/// Whether one that serves has not been there for long: clients may only be coming to it.
#[must_use]
pub fn any_settles(others: &[Replica]) -> bool {
    others.iter().any(|other| other.note.serves && !other.note.settled)
}

/// How many clients more than its share a replica has: than the mean of all that serve, itself among them.
#[must_use]
pub fn above_share(own: u64, others: &[Replica]) -> u64 {
    own.saturating_sub(All::of(own, others).share())
}

/// How many of its clients a replica sheds: those above its share, if it has more than 1.1 times the mean, or if
/// another one has less than 0.9 of it, to which they can go. A client or two are never shed.
#[must_use]
pub fn excess(own: u64, others: &[Replica]) -> u64 {
    let all = All::of(own, others);
    let above = above_share(own, others);
    if above > SMALL && (all.is_many(own) || all.is_few(all.fewest)) { above } else { 0 }
}

/// All replicas that serve.
#[derive(Clone, Copy)]
struct All {
    replicas: u128,
    clients: u128,
    /// Clients of the one that has fewest.
    fewest: u64,
}

impl All {
    fn of(own: u64, others: &[Replica]) -> Self {
        let alone = Self { replicas: 1, clients: own.into(), fewest: own };
        let serving = others.iter().filter(|other| other.note.serves).map(|other| other.note.clients);
        serving.fold(alone, |all, clients| Self {
            replicas: all.replicas + 1,
            clients: all.clients + u128::from(clients),
            fewest: all.fewest.min(clients),
        })
    }

    /// The mean; with a rest, of all together, each may have one more.
    fn share(self) -> u64 {
        self.clients.div_ceil(self.replicas).try_into().unwrap_or(u64::MAX)
    }

    fn is_many(self, clients: u64) -> bool {
        u128::from(clients) * self.replicas * 10 > self.clients * 11
    }

    fn is_few(self, clients: u64) -> bool {
        u128::from(clients) * self.replicas * 10 < self.clients * 9
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Another replica with so many clients.
    pub(crate) fn replica(clients: u64, serves: bool) -> Replica {
        Replica { name: "another".to_owned(), note: Note { clients, serves, ..Note::default() } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::replica;
    use super::*;

    fn serving(counts: &[u64]) -> Vec<Replica> {
        counts.iter().map(|clients| replica(*clients, true)).collect()
    }

    /// What each of them sheds, all looking at once.
    fn excesses(counts: &[u64]) -> Vec<u64> {
        let of = |index: usize| {
            let others = [&counts[..index], &counts[index + 1..]].concat();
            excess(counts[index], &serving(&others))
        };
        (0..counts.len()).map(of).collect()
    }

    #[test]
    fn one_that_has_more_than_a_tenth_above_the_mean_sheds_down_to_it() {
        for (counts, shed) in [
            // One was restarted.
            (&[500, 500, 0][..], &[166, 166, 0][..]),
            (&[110, 95, 95], &[0, 0, 0]),
            (&[111, 95, 94], &[11, 0, 0]),
            // Nobody has many, but one has few.
            (&[109, 109, 82], &[9, 9, 0]),
            (&[1000], &[0]),
            (&[0, 0], &[0, 0]),
        ] {
            assert_eq!(excesses(counts), shed, "{counts:?}");
        }
    }

    #[test]
    fn nobody_is_moved_for_a_client_or_two() {
        for counts in [&[1, 0][..], &[2, 0], &[3, 3, 0], &[4, 0], &[12, 9, 9], &[6, 4, 2]] {
            assert!(excesses(counts).iter().all(|shed| *shed == 0), "{counts:?}");
        }
        assert_eq!(excesses(&[6, 0]), [3, 0]);
    }

    #[test]
    fn who_does_not_serve_is_not_counted() {
        let gone = [replica(0, false), replica(10_000, false)];
        assert_eq!(excess(500, &gone), 0);
        assert!(!any_serves(&gone) && any_serves(&serving(&[0])));
        assert_eq!(excess(500, &[replica(100, true), replica(0, false)]), 200);
        assert!(!any_serves(&alone().borrow()));
    }

    #[test]
    fn one_that_serves_settles_or_has_settled() {
        let one = |serves, settled| {
            let note = Note { serves, settled, ..Note::default() };
            [Replica { name: "another".to_owned(), note }]
        };
        for (replica, settled, settles) in [
            (one(true, true), true, false),
            (one(true, false), false, true),
            (one(false, true), false, false),
            (one(false, false), false, false),
        ] {
            assert_eq!((any_settled(&replica), any_settles(&replica)), (settled, settles), "{replica:?}");
        }
    }

    #[test]
    fn no_count_is_too_large() {
        assert_eq!(excess(u64::MAX, &serving(&[u64::MAX, u64::MAX])), 0);
        assert_eq!(excess(u64::MAX, &serving(&[0])), u64::MAX / 2);
    }

    #[test]
    fn a_note_reads_as_it_was_written_and_by_other_versions() {
        let note =
            Note { clients: 7, serves: true, address: Some("192.0.2.1:7443".to_owned()), ..Note::default() };
        let last = "[2001:db8::7]:4711".parse().unwrap();
        let knocked = Some(HeardKnock { last, seconds_ago: 3, hosts: 2 });
        for note in [note.clone(), Note { knocked, ..note.clone() }] {
            let written = serde_json::to_string(&note).unwrap();
            assert_eq!(serde_json::from_str::<Note>(&written).unwrap(), note);
        }
        let older = r#"{"clients":7,"serves":true,"address":"192.0.2.1:7443","unheard":1}"#;
        assert_eq!(serde_json::from_str::<Note>(older).unwrap(), note);
    }

    proptest! {
        #[test]
        fn all_are_even_after_one_round_and_then_at_rest(
            before in proptest::collection::vec(0_u64..2000, 1..7)
        ) {
            let mut counts = before.clone();
            let mut shed = 0;
            for (count, excess) in counts.iter_mut().zip(excesses(&before)) {
                *count -= excess;
                shed += excess;
            }
            for _ in 0..shed {
                // As a balancer does that looks for the least connections.
                let least = counts.iter_mut().min().unwrap();
                *least += 1;
            }
            let (all, replicas) = (counts.iter().sum::<u64>(), counts.len() as u64);
            prop_assert_eq!(all, before.iter().sum::<u64>());
            prop_assert_eq!(excesses(&counts), vec![0_u64; counts.len()], "{:?} at rest", &counts);
            // Where only a client or two would have to move, it stays as it is.
            let small = counts.iter().all(|count| *count <= all.div_ceil(replicas) + SMALL);
            for count in &counts {
                let within = (9 * all..=11 * all).contains(&(10 * replicas * count));
                prop_assert!(within || small, "{:?} became {:?}", &before, &counts);
            }
        }
    }
}
