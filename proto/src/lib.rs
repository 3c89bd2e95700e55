//! Loden's wire protocol and the validated model beside it.
//!
//! ```text
//! bytes ──prost──▶ wire (v1) ──convert──▶ model ──▶ everybody else
//!                                 │
//!                                 └─ InvalidValue: field, value, rule ──▶ INVALID_ARGUMENT
//! ```
//!
//! A model value that exists is valid. Nothing outside [`convert`] looks at raw
//! strings. Without the feature `grpc` only the model is built, which is all
//! that the datapath needs.

pub mod invalid;
pub mod model;
pub mod names;
pub mod text;

#[cfg(feature = "grpc")]
pub mod convert;
#[cfg(feature = "grpc")]
pub mod reason;

pub use invalid::InvalidValue;

/// The generated messages, clients and servers of `loden.v1`.
#[cfg(feature = "grpc")]
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("loden.v1");
}

/// The encoded `FileDescriptorSet` of what the control plane serves of `loden.v1`, and its imports, for reflection.
#[cfg(feature = "grpc")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loden.v1.bin"));

/// The same of what an agent serves on its host.
#[cfg(feature = "grpc")]
pub const AGENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loden.v1.agent.bin"));
