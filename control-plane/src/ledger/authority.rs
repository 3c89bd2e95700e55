//! The CA that several control planes share, sealed: one record, of which the ledger knows no more than its revision.

use super::Ledger;
use super::apply::{Corrupt, corrupt};
use super::command::{Decision, Want};
use super::key::RecordKey;
use super::record::{AuthorityRecord, decode, encode};
use super::refusal::Refusal;
use crate::store::{Change, Guard, Loaded, Revision};

impl Ledger {
    /// The shared CA, sealed, and its revision; none where it is not shared.
    #[must_use]
    pub fn shared_authority(&self) -> Option<(&str, Revision)> {
        self.authority.as_ref().map(|stored| (&*stored.record.sealed, stored.revision))
    }

    /// The shared CA, sealed, and its revision, in a store that no ledger was made of yet: serving begins with the CA.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn shared_authority_of(loaded: &Loaded) -> Result<Option<(String, Revision)>, Corrupt> {
        let key = RecordKey::Authority.key();
        let Some(record) = loaded.records.iter().find(|record| record.key == key) else { return Ok(None) };
        let authority: AuthorityRecord = decode(&record.value)
            .map_err(|error| corrupt(&record.key, format!("cannot be read: {error}")))?;
        Ok(Some((authority.sealed, record.mod_revision)))
    }

    /// Takes the shared CA out of what a store holds, for one that shares none.
    pub fn forget_shared_authority(loaded: &mut Loaded) {
        let key = RecordKey::Authority.key();
        loaded.records.retain(|record| record.key != key);
    }

    /// What shares a CA instead of the one of a revision, or where none is shared yet.
    #[must_use]
    pub fn sharing_authority(sealed: String, instead: Option<Revision>) -> (Vec<Change>, Vec<Guard>) {
        let key = RecordKey::Authority.key();
        let value = encode(&AuthorityRecord { sealed });
        let guard = match instead {
            Some(revision) => Guard::Unchanged { key: key.clone(), revision },
            None => Guard::Absent(key.clone()),
        };
        (vec![Change::Put { key, value }], vec![guard])
    }

    /// Shares another CA in place of the one of a revision.
    pub(super) fn share_authority(&self, sealed: &str, after: Revision) -> Result<Decision, Refusal> {
        if self.authority.as_ref().is_none_or(|stored| stored.revision != after) {
            return Err(Refusal::AuthorityChanged);
        }
        let (changes, guards) = Self::sharing_authority(sealed.to_owned(), Some(after));
        Ok(Decision { changes, guards, more: false, want: Want::Nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::super::testing::Rig;
    use super::*;

    #[test]
    fn of_two_that_change_the_ca_one_does() {
        let mut rig = Rig::new();
        assert_eq!(rig.ledger.shared_authority(), None);
        let (changes, guards) = Ledger::sharing_authority("first".to_owned(), None);
        let first = rig.commit(changes.clone(), guards.clone()).unwrap();
        rig.catch_up();
        assert_eq!(rig.ledger.shared_authority(), Some(("first", first)));
        assert_eq!(Ledger::shared_authority_of(&rig.loaded()), Ok(Some(("first".to_owned(), first))));
        assert!(rig.commit(changes, guards).is_err());
        let share = |sealed: &str| Command::ShareAuthority { sealed: sealed.to_owned(), after: first };
        rig.must(share("second"));
        assert_eq!(rig.ledger.shared_authority().map(|(sealed, _)| sealed), Some("second"));
        assert_eq!(rig.refused(share("third")), Refusal::AuthorityChanged);
        let (changes, guards) = Ledger::sharing_authority("fourth".to_owned(), Some(first));
        assert!(rig.commit(changes, guards).is_err(), "it is another one by now");
    }

    #[test]
    fn a_copy_without_the_ca_has_everything_else() {
        let mut rig = Rig::new();
        let (changes, guards) = Ledger::sharing_authority("first".to_owned(), None);
        rig.commit(changes, guards).unwrap();
        rig.catch_up();
        let mut loaded = rig.loaded();
        let records = loaded.records.len();
        Ledger::forget_shared_authority(&mut loaded);
        assert_eq!((Ledger::shared_authority_of(&loaded), loaded.records.len()), (Ok(None), records - 1));
        let copied = Ledger::load(&loaded).unwrap();
        assert_eq!((copied.shared_authority(), copied.cluster()), (None, rig.ledger.cluster()));
    }
}
