//! Repeated requests get the first answer.

use loden_proto::InvalidValue;
use serde::Serialize;

use super::draft::{Draft, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Command, Context, Want};
use crate::ledger::key::{RecordKey, digest};
use crate::ledger::record::{Made, RequestRecord, Stamp, encode};
use crate::ledger::refusal::{Named, Refusal};

/// Longest request id, in characters.
const LONGEST: usize = 64;

impl Ledger {
    /// The answer of the first request with this id, if it is remembered.
    pub(super) fn answered(
        &self,
        id: Option<&str>,
        content: &impl Serialize,
        context: &Context<'_>,
    ) -> Result<Option<Want>, Refusal> {
        let Some(id) = id else { return Ok(None) };
        if id.is_empty() || id.chars().count() > LONGEST {
            let rule = format!("must have 1 to {LONGEST} characters");
            return Err(InvalidValue::new(id, rule).at("request_id").into());
        }
        let remembered = self.requests.get(&RecordKey::request(id).key());
        let now = Stamp::from(context.now);
        let Some(request) = remembered.map(|stored| &stored.record).filter(|request| request.until > now)
        else {
            return Ok(None);
        };
        if request.content != digest(&encode(content)) {
            let rule = "was used for another request within the last 10 minutes";
            return Err(InvalidValue::new(id, rule).at("request_id").into());
        }
        match &request.made {
            Made::Network(network) if self.networks.contains_key(network) => {
                Ok(Some(Want::Network(network.clone())))
            }
            Made::Network(network) => Err(Refusal::NotFound(Named::Network(network.clone()))),
            Made::Reservation(of) if self.reservation(of).is_some() => {
                Ok(Some(Want::Reservation(of.clone())))
            }
            Made::Reservation(of) => Err(Refusal::NotFound(Named::Reservation(of.clone()))),
        }
    }

    /// Remembers what a request made.
    pub(super) fn remember(
        &self,
        draft: &mut Draft,
        id: Option<&str>,
        content: &impl Serialize,
        made: Made,
        context: &Context<'_>,
    ) {
        let Some(id) = id else { return };
        let key = RecordKey::request(id);
        let until = Stamp::from(context.now).plus(Command::REMEMBERED);
        let record = RequestRecord { made, content: digest(&encode(content)), until };
        draft.put(&key, &record, revision_of(self.requests.get(&key.key())));
    }
}
