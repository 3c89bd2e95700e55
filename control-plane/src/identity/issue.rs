//! `loden-control-plane issue`: a bundle from the CA's files alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use loden_proto::InvalidValue;
use loden_transport::{Bundle, BundleError, Role};

use super::{AuthorityError, PkiError, rotation};

/// What a bundle is issued for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum IssuedRole {
    /// A host that runs an agent; NAME is the node's, a DNS name
    Node,
    /// Somebody who may do everything
    Admin,
    /// Somebody who may only look
    Reader,
}

/// What to issue, and where to.
#[derive(Clone, Debug)]
pub struct Order {
    /// For what.
    pub role: IssuedRole,
    /// For whom.
    pub name: String,
    /// The directory to write.
    pub out: PathBuf,
    /// How long it lives.
    pub validity: Duration,
    /// The identity epoch of a node, as it was told when the node was revoked.
    pub epoch: u32,
    /// Replace a bundle that is there.
    pub force: bool,
}

/// A bundle was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name breaks the rule for its role.
    #[error("{0}")]
    Name(InvalidValue),
    /// Something is there already.
    #[error("out: {} exists; --force replaces it", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The CA cannot be read.
    #[error("the CA in {} cannot be used", directory.display())]
    Ca {
        /// The directory of the CA.
        directory: PathBuf,
        /// Why.
        source: PkiError,
    },
    /// The certificate cannot be made.
    #[error(transparent)]
    Make(#[from] AuthorityError),
    /// The bundle cannot be written.
    #[error(transparent)]
    Write(#[from] BundleError),
}

impl IssueError {
    /// Whether the order itself breaks a rule, whatever is on disk.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Make(AuthorityError::Validity(_)))
    }
}

/// Issues a bundle with the CA in `pki`.
///
/// # Errors
/// The name or the validity breaks its rule, the target exists, or a file cannot be read or written.
pub fn issue(pki: &Path, order: &Order, now: SystemTime) -> Result<Bundle, IssueError> {
    let name = |invalid: InvalidValue| IssueError::Name(invalid.at("name"));
    let role = match order.role {
        IssuedRole::Node => Role::Node(order.name.parse().map_err(name)?),
        IssuedRole::Admin => Role::Admin(order.name.parse().map_err(name)?),
        IssuedRole::Reader => Role::Reader(order.name.parse().map_err(name)?),
    };
    if !order.force && order.out.symlink_metadata().is_ok() {
        return Err(IssueError::Exists { path: order.out.clone() });
    }
    let authority =
        rotation::load(pki).map_err(|source| IssueError::Ca { directory: pki.to_owned(), source })?;
    let bundle = authority.issue(role, &[], order.epoch, order.validity, now)?;
    bundle.write(&order.out)?;
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::super::Pki;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn order(role: IssuedRole, name: &str, out: &Path) -> Order {
        Order {
            role,
            name: name.to_owned(),
            out: out.to_owned(),
            validity: 365 * DAY,
            epoch: 0,
            force: false,
        }
    }

    #[test]
    fn a_bundle_names_its_owner_and_is_not_overwritten_unless_told() {
        let state = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        Pki::open_or_create(&state.path().join("pki"), &"loden".parse().unwrap(), now).unwrap();
        let pki = state.path().join("pki");
        let out = state.path().join("node-7");
        let mut order = order(IssuedRole::Node, "node-7", &out);
        issue(&pki, &order, now).unwrap();
        let first = Bundle::read(&out).unwrap();
        assert_eq!(first.id().to_string(), "spiffe://loden/node/node-7");
        let error = issue(&pki, &order, now).unwrap_err();
        assert!(error.to_string().contains("--force replaces it"), "{error}");
        order.force = true;
        issue(&pki, &order, now).unwrap();
        assert_ne!(Bundle::read(&out).unwrap(), first);
    }

    #[test]
    fn bad_orders_name_field_value_and_rule() {
        let state = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let out = state.path().join("out");
        let error = issue(state.path(), &order(IssuedRole::Node, "Node_7", &out), now).unwrap_err();
        assert!(error.to_string().starts_with("name: \"Node_7\" must be a DNS name"), "{error}");
        let error = issue(state.path(), &order(IssuedRole::Admin, "a/b", &out), now).unwrap_err();
        assert!(error.to_string().starts_with("name: \"a/b\" must be 1 to 63 letters"), "{error}");
        let error = issue(state.path(), &order(IssuedRole::Admin, "ann", &out), now).unwrap_err();
        assert!(!error.is_usage() && error.to_string().contains("cannot be used"), "{error}");

        Pki::open_or_create(state.path(), &"loden".parse().unwrap(), now).unwrap();
        let mut order = order(IssuedRole::Reader, "ann", &out);
        order.validity = Duration::from_millis(999);
        let error = issue(state.path(), &order, now).unwrap_err();
        assert_eq!(error.to_string(), "validity: \"999ms\" must be at least 1s");
        assert!(error.is_usage());
        order.validity = 36500 * DAY;
        let error = issue(state.path(), &order, now).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("ends after the CA"), "{error}");
        assert!(!out.exists());
    }
}
