//! Between wire and model: the only place that looks at raw strings.
//!
//! `TryFrom` a message gives the model or an [`InvalidValue`](crate::InvalidValue) whose field path
//! starts below the message; the caller adds where the message stood.

mod count;
mod lease;
mod network;
mod secret;
mod time;
mod token;

pub use count::{beyond, count};
pub use lease::{MAX_PREFIXES, endpoint_or_missing, parse_prefixes, parse_subnets};
pub use network::device_offload_from;
pub use secret::mask_keys;
pub use time::{duration, duration_from, timestamp, timestamp_from};
pub use token::{MAX_TOKEN_NETWORKS, TokenOrder};
