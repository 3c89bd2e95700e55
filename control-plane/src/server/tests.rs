//! A whole server in this process, over real mutual TLS.

mod asking;
mod draining;
mod fixture;
mod joining;
mod keys;
mod knocks;
mod life;
mod raw;
mod roles;
mod rotating;
mod services;
mod slow;
mod unread;
mod unserved;
mod watching;
