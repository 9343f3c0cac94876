//! The DataNode.
#![allow(dead_code)]
mod metrics;
mod settings;
mod store;
mod transfer;
