"""`csm-trio batch`: synthesize many texts into files by one or more servers' public API."""
