//! Between wire and model: the only place that looks at raw strings.
//!
//! `TryFrom` a message gives the model or an [`InvalidValue`](crate::InvalidValue) whose field path
//! starts below the message; the caller adds where the message stood.

mod count;
mod key;
mod lease;
mod network;
mod time;

pub use count::{beyond, count};
pub use key::mask_keys;
pub use lease::{MAX_PREFIXES, endpoint_or_missing, parse_prefixes, parse_subnets};
pub use network::device_offload_from;
pub use time::{duration, duration_from, timestamp, timestamp_from};
