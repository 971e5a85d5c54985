//! URI templates (RFC 6570, simple expansion only).
