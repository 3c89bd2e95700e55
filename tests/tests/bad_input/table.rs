//! Every bad request, and what the control plane has to say to it.

mod endpoints;
mod leases;
mod networks;

use loden_proto::reason::Reason;
use tonic::Code;

use crate::call::Call;

/// Who sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum As {
    Admin,
    /// Has the lease `networks/default/leases/a`.
    A,
    /// Has none.
    B,
}

/// A request and its refusal.
pub(crate) struct Bad {
    pub(crate) who: As,
    pub(crate) call: Call,
    pub(crate) code: Code,
    pub(crate) reason: Reason,
    /// Field, value and rule, as far as there are such.
    pub(crate) says: &'static [&'static str],
}

fn invalid(who: As, call: Call, says: &'static [&'static str]) -> Bad {
    Bad { who, call, code: Code::InvalidArgument, reason: Reason::InvalidField, says }
}

fn refused(who: As, call: Call, code: Code, reason: Reason, says: &'static [&'static str]) -> Bad {
    Bad { who, call, code, reason, says }
}

/// All of them.
pub(crate) fn all() -> Vec<Bad> {
    let mut all = networks::all();
    all.extend(endpoints::all());
    all.extend(leases::all());
    all
}
