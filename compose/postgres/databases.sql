-- A database for each service: they share topics and schemas, nothing else. The tracker has its own.
CREATE DATABASE orders;
CREATE DATABASE inventory;
CREATE DATABASE payments;
CREATE DATABASE notifications;
CREATE DATABASE analytics;
CREATE DATABASE shipping;
