"""What a corpus is made of and what became of the rest: numbers of files that can be added up, samples to read, and the page of it all.

chain       the stages in their order, from their manifests
statistics  numbers of one file, and their sum
tallies     how often each of many keys (hosts, survivors) occurs, counted in partitions
samples     documents chosen by the hash of their ids, found again, without personal data
compare     two texts side by side
timing      what the stages took, and what a whole crawl would
page        the report as one HTML page
"""
