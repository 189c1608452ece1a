//! Histories that can be costly: their steps, how they are played, and what they cost. The fuzz target `cost` shares them.

#![allow(dead_code, reason = "the test and the fuzz target each use a part")]

pub mod found;
pub mod play;
pub mod scene;
pub mod step;
