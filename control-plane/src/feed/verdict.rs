//! What a client's resume token tells about its set of peers, and about our store. Pure.
//!
//! ```text
//!  none, or made up ───────────▶ Unknown            ─▶ snapshot
//!  no tag of ours, new key ────▶ OtherKey           ─▶ store and key were lost: begin a new one, adopt
//!  no tag of ours otherwise ───▶ Unknown            ─▶ snapshot
//!  another incarnation, known ─▶ Unknown            ─▶ snapshot
//!  another incarnation ────────▶ ForeignIncarnation ─▶ the store was lost: begin a new one, adopt
//!  ours, ahead of the store ───▶ AheadOfStore       ─▶ it was rolled back: the same
//!  ours, another hash ─────────▶ Diverged           ─▶ the same
//!  ours, out of history ───────▶ TooOld             ─▶ snapshot
//!  ours ───────────────────────▶ Resume             ─▶ what has changed since
//! ```

use std::collections::BTreeSet;

use super::token::{Point, Token};
use super::window::Standing;

/// The life of the store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Incarnation {
    /// This one.
    pub id: u128,
    /// The ones before it that are known.
    pub predecessors: BTreeSet<u128>,
    /// Whether leases from before are still being collected.
    pub adopting: bool,
}

impl Incarnation {
    /// Whether nothing is known of any life before this one.
    fn is_first(&self) -> bool {
        self.predecessors.is_empty() && !self.adopting
    }
}

/// What a token tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenVerdict {
    /// Its holder has followed this store up to there.
    Resume(Point),
    /// Its holder has followed this store, longer ago than history goes.
    TooOld,
    /// Nothing: there is none, it is not ours, or it is of a life of the store that we know to be over.
    Unknown,
    /// Its holder has followed somebody before this store, which knows of nobody before itself: the key was
    /// lost with the store. Anybody can make that up, so it is believed once, and only while the key is so new
    /// that it has not proved itself.
    OtherKey(Token),
    /// Its holder has seen a later state of this very store.
    AheadOfStore(Token),
    /// Its holder has seen another state of this very store at the same revision.
    Diverged(Token),
    /// Its holder has followed a store that this one knows nothing of.
    ForeignIncarnation(Token),
}

impl TokenVerdict {
    /// The incarnation that a lost or rolled-back store is to name as its predecessor.
    #[must_use]
    pub const fn lost(self) -> Option<u128> {
        match self {
            Self::AheadOfStore(token)
            | Self::Diverged(token)
            | Self::ForeignIncarnation(token)
            | Self::OtherKey(token) => Some(token.incarnation),
            Self::Resume(_) | Self::TooOld | Self::Unknown => None,
        }
    }
}

/// What is known of a token before it is compared with the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Brought {
    /// There is none, or it is none of ours.
    Nothing,
    /// Its tag is not ours, and our key is new: see [`crate::knocks`].
    Unproven(Token),
    /// We have made it.
    Ours(Token),
}

/// Judges a token.
pub(super) fn judge(
    token: Brought,
    incarnation: &Incarnation,
    standing: impl FnOnce(Point) -> Standing,
) -> TokenVerdict {
    let token = match token {
        Brought::Ours(token) => token,
        Brought::Unproven(token) if incarnation.is_first() => return TokenVerdict::OtherKey(token),
        Brought::Unproven(_) | Brought::Nothing => return TokenVerdict::Unknown,
    };
    if token.incarnation != incarnation.id {
        return if incarnation.predecessors.contains(&token.incarnation) {
            TokenVerdict::Unknown
        } else {
            TokenVerdict::ForeignIncarnation(token)
        };
    }
    match standing(token.point) {
        Standing::Known => TokenVerdict::Resume(token.point),
        Standing::Older => TokenVerdict::TooOld,
        Standing::Ahead => TokenVerdict::AheadOfStore(token),
        Standing::Differs => TokenVerdict::Diverged(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: Point = Point { revision: 7, hash: 70 };

    fn verdict(incarnation: u128, standing: Standing) -> TokenVerdict {
        let ours = Incarnation { id: 3, predecessors: [1, 2].into(), adopting: false };
        judge(Brought::Ours(Token { incarnation, point: POINT }), &ours, |_| standing)
    }

    #[test]
    fn a_token_of_this_incarnation_is_judged_by_where_it_stands() {
        let token = Token { incarnation: 3, point: POINT };
        assert_eq!(verdict(3, Standing::Known), TokenVerdict::Resume(POINT));
        assert_eq!(verdict(3, Standing::Older), TokenVerdict::TooOld);
        assert_eq!(verdict(3, Standing::Ahead), TokenVerdict::AheadOfStore(token));
        assert_eq!(verdict(3, Standing::Differs), TokenVerdict::Diverged(token));
        assert_eq!(TokenVerdict::Diverged(token).lost(), Some(3));
    }

    #[test]
    fn a_known_predecessor_is_no_alarm_a_stranger_is() {
        assert_eq!(verdict(2, Standing::Ahead), TokenVerdict::Unknown);
        assert_eq!(verdict(9, Standing::Known).lost(), Some(9));
        assert_eq!(
            judge(Brought::Nothing, &Incarnation::default(), |_| Standing::Ahead),
            TokenVerdict::Unknown
        );
    }

    #[test]
    fn a_token_of_another_key_is_believed_only_in_a_first_life() {
        let token = Token { incarnation: 9, point: POINT };
        let judge = |ours: &Incarnation| judge(Brought::Unproven(token), ours, |_| Standing::Known);
        let first = Incarnation { id: 3, ..Incarnation::default() };
        assert_eq!(judge(&first).lost(), Some(9));
        let later = Incarnation { predecessors: [9].into(), ..first.clone() };
        assert_eq!(judge(&later), TokenVerdict::Unknown);
        assert_eq!(judge(&Incarnation { adopting: true, ..first }), TokenVerdict::Unknown);
    }
}
