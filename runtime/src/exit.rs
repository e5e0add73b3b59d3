//! Exit codes of both daemons. 0 is success, 1 any other failure.

/// No server or daemon answers.
pub const UNREACHABLE: u8 = 2;
/// The command line or the configuration is wrong (`EX_USAGE` of sysexits(3)).
pub const USAGE: u8 = 64;
/// The process can't go on (`EX_SOFTWARE` of sysexits(3)).
pub const SOFTWARE: u8 = 70;
