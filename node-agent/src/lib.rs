//! The node agent: follows a network's peers and programs the kernel.

pub mod peers;
pub mod session;
pub mod state;
pub mod subnet_file;

#[cfg(test)]
pub(crate) mod testing;
