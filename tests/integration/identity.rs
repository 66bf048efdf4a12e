//! Who is believed, and what a credential can do.

mod forgery;
mod paths;
mod starting;
mod tenants;
mod voting;
