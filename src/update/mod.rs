//! The parts of live update that need no Xen: the upload, and the check of the uploaded kernel.

pub mod image;
pub mod session;
pub mod upload;
