//! The pages of a running node.
