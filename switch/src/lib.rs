pub mod frame;
pub mod io;
