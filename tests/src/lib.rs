//! What tests, benchmarks and the demo share: hosts, traffic between them, clients, and waiting.

pub mod bench;
pub mod chaos;
pub mod client;
pub mod cni;
pub mod demo;
pub mod deployment;
pub mod disk;
pub mod history;
pub mod hosts;
pub mod repairs;
pub mod scripted;
pub mod traffic;
pub mod wait;
