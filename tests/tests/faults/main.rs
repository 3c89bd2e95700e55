//! What flannel's users know as faults, each by its name: what somebody does to the kernel's objects of a node,
//! what a peer does that is hard to take back, and an end in the middle of something. All of it is put right at
//! once, without a restart, and nobody else waits for it.
//!
//! | file | faults |
//! |---|---|
//! | `vxlan.rs` | of the tunnel and what is on it |
//! | `host_gw.rs` | of next hops |
//! | `order.rs` | a peer that is hard to take back, and those behind it |
//! | `lives.rs` | leases that go, agents that end |

#![cfg(test)]

mod host_gw;
mod lives;
mod order;
mod repaired;
mod vxlan;
