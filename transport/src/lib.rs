//! Mutual TLS for both ends of a Loden connection.
//!
//! ```text
//! identity directory ──Bundle──▶ ServerTls ──▶ Hello, at the control plane
//!   ca.crt tls.crt tls.key    └▶ Credentials ──connect──▶ tonic Channel (agent, lodenctl)
//! peer's certificate ──Holder::of_certificate──▶ cluster, role, identity epoch
//! a token's hash of the CA ──connect_joining──▶ Channel for Join alone
//! ```
//!
//! Both ends speak TLS 1.3 with a certificate of the cluster's CA (a host that
//! joins has none yet), never resume a session (a resumed one would skip a renewed or revoked
//! certificate) and take the identity from the certificate's SPIFFE URI. What
//! a role may do is the server's table, not ours.

// They panic when nobody takes what is printed.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod accept;
mod bundle;
mod client;
mod connector;
mod credentials;
mod dialled;
mod error;
mod explain;
mod holder;
mod key_request;
mod options;
mod origins;
mod pinned;
mod race;
mod server;
mod server_address;
mod spiffe;
mod tls_reason;
mod unreachable;

pub use accept::{HandshakeError, Hello};
pub use bundle::{Bundle, BundleError};
pub use client::{connect, connect_joining, connect_lazy};
pub use credentials::Credentials;
pub use dialled::{Addresses, Dialled};
pub use error::ConnectError;
pub use explain::{explain, is_unreachable};
pub use holder::{BACK_DATED, Holder, SERIAL_RANDOM, serial};
pub use key_request::{KeyRequest, KeyRequestError};
pub use options::ConnectOptions;
pub use origins::Origins;
pub use pinned::{cluster_of, key_hash};
pub use server::{Gate, JOIN_NAME, ServerConfigError, ServerTls};
pub use server_address::{DEFAULT_PORT, ServerAddress, ServerAddressError};
pub use spiffe::{IdentityError, Principal, Role, SpiffeId};
pub use unreachable::{Attempt, AttemptError, Unreachable};

use std::sync::Arc;

use loden_proto::names::ClusterName;
use rustls::crypto::CryptoProvider;

/// The application protocol of both ends (HTTP/2, RFC 9113 §3.2).
const ALPN_H2: &[u8] = b"h2";

/// The DNS name that every control-plane certificate of `cluster` carries, and
/// that clients verify whatever address they dial.
#[must_use]
pub fn control_plane_name(cluster: &ClusterName) -> String {
    format!("control-plane.{cluster}.loden")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
