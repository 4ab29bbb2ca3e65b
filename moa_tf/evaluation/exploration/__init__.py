"""What a table of signatures holds, before anything is learnt from it: statistics, drawings and a page of both."""
