//! The only place that opens sockets: dials vetted addresses from the egress address.
