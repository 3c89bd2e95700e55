//! A world for tests: networks and peers, a scripted control plane, an agent.

mod model;
mod server;
mod world;

pub(crate) use model::{network, peer};
pub(crate) use world::{World, facts};
